"""Two trees are compared cell by cell, and a run that was cut off goes on."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reports.scaling import against
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


def test_the_page_says_the_least_ratio() -> None:
    def row(tasks: int, faster: float, new_bytes: int) -> dict[str, Any]:
        of_cell = revisions.place_of(Cell("square", 8, 4, 2, tasks))
        sizes = {"old_bytes": 100, "new_bytes": new_bytes, "error_ratio": 1.0 + tasks / 1000}
        return {**of_cell, "old_cpu": 2.0, "new_cpu": 2.0 / faster, "faster": faster, **sizes}

    text = against({**HEAD, "rows": [row(4, 2.5, 100), row(8, 1.25, 99), row(16, 5.0, 100)]})
    told, table = text.split("\n\n")
    told = " ".join(told.split())
    assert "least 1.25 times as fast: 4 of width 8, square, 8 adapters of rank 2" in told
    assert "differ in 1 of 3 cells, and the mean error is at most 1.0160 times" in told
    assert "| 4 of width 8, square | 8 | 2 | 2.00 | 1.60 | 1.25 | 0.9900 | 1.0080 |" in table
