"""Rows over a part of a set's tasks are shown, and say so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.quality.sets import pinned
from benchmarks.reports import every_method, scored
from benchmarks.reports.scores import every_row, headline
from tests.benchmarks.reports.test_scores import task


def _save(folder: Path, plan: str, methods: dict[str, int], tasks: list[str]) -> None:
    """methods: bytes by name, each of 5 %."""
    scored = []
    for name in tasks:
        made = task(name, 80.0, -4.0, 98.0)
        (score,) = (x for label, x in made["results"].items() if label not in ("base", "original"))
        ends = {x: made["results"][x] for x in ("base", "original")}
        scored.append(
            made
            | {
                "rows": 10,
                "task": name,
                "language": "en",
                "results": ends | dict.fromkeys(methods, score),
            }
        )
    errors = dict.fromkeys("abc", 0.5)
    about = {"setting": "5%", "size_pct": 5.0, "errors": errors}
    result = {
        "set": "gemma3-5x8",
        "adapters": pinned()["gemma3-5x8"][1],
        "plan": plan,
        "methods": {x: {**about, "method": x, "bytes": size} for x, size in methods.items()},
        "tasks": scored,
    }
    (folder / f"gemma3-5x8.{plan}.json").write_text(json.dumps(result))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """hydraopt over three tasks; another bundle of it, and one with prompts, over two."""
    _save(tmp_path, "sizes", {"hydraopt": 1000}, ["a", "b", "c"])
    _save(tmp_path, "curves", {"hydraopt": 1004, "hydraopt-curves": 1002}, ["a", "b"])
    return tmp_path


def test_rows_of_fewer_tasks_state_their_number(folder: Path) -> None:
    rows = every_method.rows_by_set(folder)["gemma3-5x8"]
    assert [(row["bytes"], row.get("tasks")) for row in rows] == [(1000, 3), (1002, 2), (1004, 2)]
    heads, lines = every_method.every_method(folder)
    cells = [dict(zip(heads, line, strict=True)) for line in lines]
    assert [(x["bytes"], x["tasks"]) for x in cells] == [
        ("1000", "3"),
        ("1002", "2"),
        ("1004", "2"),
    ]


def test_the_headline_has_the_rows_over_most_tasks(folder: Path) -> None:
    assert [x["bytes"] for x in headline(folder)["sets"]["gemma3-5x8"]["rows"]] == [1000, 1002]
    found = every_row(folder)["gemma3-5x8"]
    assert (found["n"], [x["bytes"] for x in found["rows"]]) == (3, [1004, 1000, 1002])


def test_the_csv_file_has_all_bundles_with_their_tasks(folder: Path) -> None:
    heads, rows = scored.bundles(folder)
    cells = [dict(zip(heads, row, strict=True)) for row in rows]
    assert [(x["method"], x["tasks"], x["bytes"]) for x in cells] == [
        ("hydraopt", "2", "1004"),
        ("hydraopt", "3", "1000"),
        ("hydraopt-curves", "2", "1002"),
    ]
    heads, rows = scored.tasks(folder)
    cells = [dict(zip(heads, row, strict=True)) for row in rows]
    assert len(cells) == 3 + 2 + 2
    assert {(x["adapter"], x["metric"]) for x in cells} >= {("a", cells[0]["metric"])}
    assert {x["difference"] for x in cells} == {"-4"}
