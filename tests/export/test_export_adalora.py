"""AdaLoRA elsewhere than in PEFT: products of three tensors, and modules cut to nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from hydraopt import attach, merge, open_bundle
from hydraopt.adapters import read_adapter
from hydraopt.errors import ExportError
from hydraopt.export import export_task
from tests.export.targets import bundled, save_base
from tests.small_model import tiny_llama

QUERIES = [f"model.layers.{i}.self_attn.q_proj" for i in range(2)]


def adalora(folder: Path, ranks: tuple[int, ...], size: float = 0.1, dtype: Any = "f4") -> Path:
    """An AdaLoRA of initial rank 4 whose modules have these ranks left."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    tensors: dict[str, NDArray[Any]] = {}
    for path, r in zip(QUERIES, ranks, strict=False):
        for part, shape in (("A", (r, 32)), ("B", (32, r)), ("E", (r, 1))):
            values = rng.standard_normal(shape) * (1 if part == "E" and size == 0.1 else size)
            tensors[f"base_model.model.{path}.lora_{part}"] = values.astype(dtype)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "ADALORA", "init_r": 4, "target_r": 2, "r": 8, "lora_alpha": 16,
        "rank_pattern": {
            f"{path}.lora_E": [i < r for i in range(4)]
            for path, r in zip(QUERIES, ranks, strict=False)
        },
        "target_modules": ["q_proj"], "base_model_name_or_path": "org/x",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def products(folder: Path) -> dict[str, NDArray[np.float64]]:
    modules = read_adapter(folder).modules.items()
    return {path: np.matmul(*(x.astype(float) for x in m.factors())) for path, m in modules}


@pytest.mark.parametrize("lossless", [True, False], ids=["lossless", "coded"])
def test_a_module_without_rank_changes_nothing_anywhere(lossless: bool, tmp_path: Path) -> None:
    adapter = adalora(tmp_path / "cut", (4, 0))
    task = bundled(tmp_path, adapter, lossless=lossless)["cut"]
    base = save_base(tmp_path / "base")
    wanted = products(adapter)
    for form in ("mlx", "vllm"):
        export_task(task, tmp_path / form, format=form)
        got = products(tmp_path / form)
        assert {path for path, x in got.items() if x.any()} == set(QUERIES[:1])
        np.testing.assert_allclose(got[QUERIES[0]], wanted[QUERIES[0]], atol=1e-4)
    export_task(task, tmp_path / "x.gguf", format="gguf", base=base)
    export_task(task, tmp_path / "x.onnx_adapter", format="onnx")
    export_task(task, tmp_path / "merged", format="merged", base=base)
    old, new = (load_file(x / "model.safetensors") for x in (base, tmp_path / "merged"))
    assert [x for x in old if not np.array_equal(old[x], new[x])] == [f"{QUERIES[0]}.weight"]
    # PEFT's own folder still has the empty tensors, without which PEFT does not load it.
    export_task(task, tmp_path / "peft")
    empty = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    assert empty[f"base_model.model.{QUERIES[1]}.lora_A"].shape == (0, 32)
    model = tiny_llama()
    x = torch.randn(1, 3, 32)
    before = [model.get_submodule(path)(x).detach() for path in QUERIES]
    with attach(model, task.bundle) as attached, torch.no_grad():
        attached.set_task("cut")
        after = [model.get_submodule(path)(x) for path in QUERIES]
    change = (after[0] - before[0])[0].numpy()
    np.testing.assert_allclose(change, x[0].numpy() @ wanted[QUERIES[0]].T, atol=1e-4)
    assert torch.equal(after[1], before[1])


def test_an_adapter_without_any_rank_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "b.hydra.safetensors"
    merge([adalora(tmp_path / "cut", (0, 0))], file, lossless=True)
    task = open_bundle(file)["cut"]
    with pytest.raises(ExportError):
        export_task(task, tmp_path / "mlx", format="mlx")


@pytest.mark.parametrize("size", [1e-2, 1e-3, 1e-4])
def test_a_product_of_16_bit_numbers_does_not_vanish_in_16_bits(
    size: float, tmp_path: Path
) -> None:
    adapter = adalora(tmp_path / "half", (4, 4), size, "f2")
    task = bundled(tmp_path, adapter, lossless=True)["half"]
    export_task(task, tmp_path / "mlx", format="mlx")
    got, wanted = products(tmp_path / "mlx"), products(adapter)
    for path, x in wanted.items():
        assert x.any()
        np.testing.assert_array_equal(got[path], x)
