"""The card says "bit by bit" of folders alone that hold the original's own tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hydraopt.export import export_task
from tests.conftest import write_adapter
from tests.export.targets import bundled, pairs, save_base

EXACT = "Its tensors are those of the original, bit by bit."


@pytest.mark.parametrize(
    ("form", "options", "exact"),
    [
        ("peft", {}, True),
        ("peft", {"dtype": "float32"}, True),
        ("peft", {"dtype": "float16"}, False),
        ("peft", {"uniform_rank": True}, False),
        ("vllm", {}, False),
        ("mlx", {}, False),
        ("merged", {"base": True}, False),
    ],
)
def test_bit_by_bit_is_said_where_it_is(
    form: str, options: dict[str, Any], exact: bool, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "numbers", pairs(), alpha=5)
    task = bundled(tmp_path, adapter, lossless=True)["numbers"]
    if "base" in options:
        options = {"base": save_base(tmp_path / "base")}
    export_task(task, tmp_path / "out", format=form, **options)
    card = (tmp_path / "out" / "README.md").read_text()
    assert (EXACT in card) == exact
    assert ("follow from those of the original" in card) != exact


def test_what_came_from_mlx_goes_back_to_it_bit_by_bit(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "numbers", pairs(), alpha=5)
    first = bundled(tmp_path, adapter, lossless=True)["numbers"]
    export_task(first, tmp_path / "mlx", format="mlx")
    (tmp_path / "again").mkdir()
    task = bundled(tmp_path / "again", tmp_path / "mlx", lossless=True)["mlx"]
    export_task(task, tmp_path / "out", format="mlx")
    assert EXACT in (tmp_path / "out" / "README.md").read_text()
