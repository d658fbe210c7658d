"""The fleet's adapters: near-copies in families of ten, and the rest unlike."""

from __future__ import annotations

import numpy as np
from safetensors.numpy import load_file

from benchmarks.speed.families import FAMILY, write_fleet
from benchmarks.speed.synthetic import square_modules


def test_half_are_near_copies_and_few_are_the_first_of_many(tmp_path) -> None:
    shapes = square_modules(32, 2)
    many = write_fleet(tmp_path / "many", shapes, 3 * FAMILY, 2, seed=1)
    few = write_fleet(tmp_path / "few", shapes, FAMILY + 2, 2, seed=1)
    held = [load_file(x / "adapter_model.safetensors") for x in many]
    for i, folder in enumerate(few):
        again = load_file(folder / "adapter_model.safetensors")
        assert all(np.array_equal(held[i][key], again[key]) for key in held[i])

    def cosine(i: int, j: int) -> float:
        key = next(key for key in held[0] if "lora_A" in key)
        a, b = (held[k][key].astype(np.float64).ravel() for k in (i, j))
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    assert abs(cosine(0, 1)) < 0.5
    assert abs(cosine(2 * FAMILY, 2 * FAMILY + 1)) < 0.5
    assert abs(cosine(0, FAMILY)) < 0.5
    assert cosine(FAMILY, FAMILY + 1) > 0.98
    assert cosine(FAMILY, FAMILY + 1) < 1
