"""A rival is a file and a row."""

from __future__ import annotations

import importlib

import pytest

from benchmarks.common import ROOT
from benchmarks.rivals import registry
from benchmarks.rivals.base import Compressor
from benchmarks.rivals.registry import RIVALS, SetShape, rows_of

FOLDER = ROOT / "benchmarks" / "rivals"
SHARED = {
    "__init__", "__main__", "base", "bundles", "compare", "numbers", "registry", "stored", "taught",
}  # fmt: skip
"""What rivals are made of; everything else in the folder is one."""


def test_every_file_has_a_row_and_every_row_a_file() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} - SHARED == set(RIVALS)


@pytest.mark.parametrize("name", RIVALS)
def test_a_file_makes_compressors(name: str) -> None:
    # Few tasks may leave nothing between one adapter and one for each.
    found = importlib.import_module(f"benchmarks.rivals.{name}").rows(SetShape(40, 8))
    assert found
    assert all(isinstance(row, Compressor) for row in found)


def test_a_toy_rival_is_a_row_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "RIVALS", {"group": "toy"})
    assert {row.method for row in rows_of(SetShape(4, 4))} == {"group"}
