"""Rows over a part of a set's tasks are shown, and say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quality.sets import pinned
from benchmarks.reports import evidence, leaderboard
from benchmarks.reports.scores import every_row, headline
from tests.benchmarks.reports.test_scores import task


def _save(folder: Path, plan: str, methods: dict[str, int], tasks: list[str]) -> None:
    """methods: bytes by name, each of 5 %."""
    scored = []
    for name in tasks:
        made = task(name, 80.0, -4.0, 98.0)
        (score,) = (x for label, x in made["results"].items() if label not in ("base", "original"))
        ends = {x: made["results"][x] for x in ("base", "original")}
        scored.append(made | {"rows": 10, "results": ends | dict.fromkeys(methods, score)})
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


def test_the_leaderboard_shows_what_was_scored_on_fewer_tasks(folder: Path) -> None:
    rows = leaderboard.rows_by_set(folder)["gemma3-5x8"]
    assert [(row["bytes"], row.get("tasks")) for row in rows] == [(1000, 3), (1002, 2), (1004, 2)]
    page = leaderboard.leaderboard(folder)
    assert page.count("(2 tasks)") == 2
    (line,) = (x for x in page.splitlines() if "1,004" in x)
    assert "| +5.00 |" in line


def test_of_equal_sizes_that_of_todays_merges_is_shown(tmp_path: Path) -> None:
    """Named part-way, whichever is larger."""
    for plan, size in (("harm", 1004), ("refit", 1000)):
        _save(tmp_path, plan, {"hydraopt-refit": size}, ["a", "b"])
    file = tmp_path / "gemma3-5x8.refit.json"
    file.rename(tmp_path / "gemma3-5x8-part-way.refit.json")
    rows = every_row(tmp_path)["gemma3-5x8"]["rows"]
    row = evidence._row(rows, "hydraopt-refit", 5)
    assert row is not None
    assert row["bytes"] == 1000
    assert len(rows) == 2


def test_the_headline_has_the_rows_over_most_tasks(folder: Path) -> None:
    assert [x["bytes"] for x in headline(folder)["sets"]["gemma3-5x8"]["rows"]] == [1000, 1002]
    found = every_row(folder)["gemma3-5x8"]
    assert (found["n"], [x["bytes"] for x in found["rows"]]) == (3, [1004, 1000, 1002])


def test_methods_say_of_how_many_tasks_they_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, Any] = headline(folder)
    monkeypatch.setattr(evidence, "headline", lambda: found)
    text = evidence.methods()
    assert "| method | tasks | test rows |" in text
    assert "| hydraopt | 3 | 30 | 5.00 % |" in text
    assert "| hydraopt-curves | 2 | 20 | 5.00 % |" in text
    assert "Rows of fewer tasks cannot be held against those of all" in text
    (folder / "gemma3-5x8.curves.json").unlink()
    _save(folder, "ways", {"hydraopt-curves": 1002}, ["a", "b", "c"])
    found = headline(folder)
    assert "| hydraopt-curves | 3 | 30 |" in evidence.methods()
    assert "fewer tasks" not in evidence.methods()
