"""Two trees are compared cell by cell, and a run that was cut off goes on."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed import revisions
from benchmarks.speed.scaling import Cell

HEAD = {"against": "abc1234", "source": "s", "repeats": 1, "rounds": 1, "versions": {}}
CELLS = [Cell("square", 8, 1, 2, tasks) for tasks in (2, 3)]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many adapters each merge had; nothing is merged."""
    folders: list[int] = []

    def compared(old: Path, size: str, made: list[Path], *_: Any) -> dict[str, Any]:
        folders.append(len(made))
        return {"faster": float(len(made))}

    monkeypatch.setattr(revisions, "SPEED", tmp_path)
    monkeypatch.setattr(revisions, "TABLE", CELLS)
    monkeypatch.setattr(revisions, "compared", compared)
    return folders


def measure(tmp_path: Path, **head: Any) -> list[dict[str, Any]]:
    args = Namespace(against=tmp_path, only=["table"], sizes=["5%"], name="x")
    revisions.measure({**HEAD, **head}, args, tmp_path)
    rows: list[dict[str, Any]] = json.loads((tmp_path / "x.json").read_text())["rows"]
    return rows


def test_a_second_run_measures_what_is_missing(tmp_path: Path, asked: list[int]) -> None:
    rows = measure(tmp_path)
    assert [(row["tasks"], row["rank"], row["faster"]) for row in rows] == [(2, 2, 2.0), (3, 2, 3)]
    (tmp_path / "x.json").write_text(json.dumps({**HEAD, "rows": rows[:1]}))
    assert measure(tmp_path) == rows
    assert asked == [2, 3, 3]


@pytest.mark.parametrize("key", ["against", "source", "rounds", "repeats"])
def test_rows_of_other_trees_are_not_gone_on_with(
    tmp_path: Path, asked: list[int], key: str
) -> None:
    measure(tmp_path)
    with pytest.raises(SystemExit, match=f"x.json has other {key}; remove it first"):
        measure(tmp_path, **{key: "another"})


def test_the_table_has_all_cells_with_one_layer() -> None:
    assert len(revisions.TABLE) == len(set(revisions.TABLE)) == 16
    assert {cell.modules for cell in revisions.TABLE if cell.shape == "8b"} == {7}
