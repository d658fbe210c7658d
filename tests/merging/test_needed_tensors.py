"""Trained tensors that a task cannot do without: no size rounds them away whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hydraopt import merge, open_bundle
from hydraopt.errors import BudgetError
from tests.conftest import write_adapter
from tests.marks import slow

PREFIX = "base_model.model."
Q = "model.layers.0.self_attn.q_proj"
TENSORS = {
    "head": (f"{PREFIX}score.weight", (3, 64), {"modules_to_save": ["score"]}),
    "wide head": (f"{PREFIX}score.weight", (50, 64), {"modules_to_save": ["score"]}),
    "norm": (f"{PREFIX}model.norm.weight", (64,), {"modules_to_save": ["norm"]}),
    "bias": (f"{PREFIX}{Q}.bias", (64,), {"bias": "all"}),
    "magnitude": (f"{PREFIX}{Q}.lora_magnitude_vector", (64,), {"use_dora": True}),
    "token rows": (
        f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta", (4, 64),
        {"trainable_token_indices": {"embed_tokens": [1, 2, 3, 4]}},
    ),
}  # fmt: skip


def adapters(folder: Path, kind: str, rank: int, spread: str) -> list[Path]:
    key, shape, settings = TENSORS[kind]
    made = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        modules = {
            f"model.layers.{i}.self_attn.{name}": (
                0.05 * rng.standard_normal((64, rank)), rng.standard_normal((rank, 64)) / 8,
            )
            for i in range(4) for name in ("q_proj", "v_proj")
        }  # fmt: skip
        values = rng.standard_normal(shape) if spread == "normal" else rng.standard_t(2, shape)
        extras = {key: (0.02 * values).astype(np.float32)}
        made.append(write_adapter(folder / f"t{seed}", modules, extras=extras, **settings))
    return made


@pytest.mark.parametrize("spread", ["normal", slow("heavy")])
@pytest.mark.parametrize("kind", [x if x == "head" else slow(x) for x in TENSORS])
def test_no_size_rounds_a_needed_tensor_away(kind: str, spread: str, tmp_path: Path) -> None:
    made = adapters(tmp_path, kind, 4, spread)
    kept, refused = 0, 0
    for size in (3_000, 1_050, 900):
        try:
            result = merge(made, tmp_path / "b", size=size, workers=1)
        except BudgetError:
            refused += 1
            continue
        assert not refused, f"{size} is met, and a larger size is not"
        kept += 1
        assert result.size <= size
        for name, task in open_bundle(tmp_path / "b").items():
            (values,) = (x.numpy() for x in task.extras.values())
            assert values.any(), f"{name} at {size}"
            error = next(iter(task.tensor_errors.values()))
            assert any(name in note.text for note in result.notes) or max(error, task.error) < 1
    assert kept


def test_what_fits_is_used_where_low_rank_parts_are_gone(tmp_path: Path) -> None:
    """A head of many numbers is all that a small size has room for; the room is not left empty."""
    made = adapters(tmp_path, "wide head", 2, "normal")
    result = merge(made, tmp_path / "b", size=2_200, workers=1)
    assert result.size > 0.95 * 2_200
    assert (
        max(x for t in open_bundle(tmp_path / "b").values() for x in t.tensor_errors.values()) < 1
    )
