"""What a merge with prompts and a size does by default, beside other ways on the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quality.sets import pinned
from benchmarks.reports.scores import best_seen
from benchmarks.reports.ways import every_way, ways
from tests.benchmarks.reports.test_scores import task

SET = "gemma3-5x8"
ADAPTERS = list(pinned()[SET][1].items())[:3]


def result(plan: str, methods: dict[str, str], rows: dict[str, int], adapters) -> dict[str, Any]:
    """methods: setting by method. rows: of the test, by task."""
    tasks = []
    for at, (name, count) in enumerate(rows.items()):
        scored = task(name, 80.0, -4.0 * at, 98.0)
        (one,) = (x for x in scored["results"].values() if "kl" in x)
        one |= {"changed_pct": 2.5, "kl_answer": 0.125}
        results = scored["results"] | dict.fromkeys(methods, one)
        tasks.append(scored | {"rows": count, "sha256": "0", "results": results})
    errors = dict.fromkeys(rows, 0.5)
    return {
        "set": SET,
        "plan": plan,
        "products": "bfloat16",
        "adapters": dict(adapters),
        "limits": {"rows": 300},
        "methods": {
            name: {"method": name, "setting": size, "bytes": 9, "size_pct": 5.0, "errors": errors}
            for name, size in methods.items()
        },
        "tasks": tasks,
    }


def errors(made: dict, error: float) -> dict:
    for method in made["methods"].values():
        method["errors"] = dict.fromkeys(method["errors"], error)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (a, _), (b, _), (c, _) = ADAPTERS
    two, three = {a: 300, b: 300}, {a: 300, b: 300, c: 300}
    mine = errors(result("harm", {"hydraopt-refit": "5%"}, two, ADAPTERS[:3]), 0.4)
    whole = errors(result("harm", {"hydraopt": "5%", "hydraopt-refit": "5%"}, three, ADAPTERS), 0.6)
    for made in (mine, whole):
        asked = {"split": "validation", "count": 24, "learned": 300}
        made["methods"]["hydraopt-refit"]["options"] = {"judge": asked}
    other = result("harm", {"hydraopt-refit": "2%"}, three, ADAPTERS)
    fewer = result("harm", {"hydraopt-curves": "5%"}, {a: 80, b: 80}, ADAPTERS)
    for name, made in (
        ("-part-way.harm", mine),
        (".harm", whole),
        ("-fiftieth.harm", other),
        ("-few.harm", fewer),
    ):
        (tmp_path / f"{SET}{name}.json").write_text(json.dumps(made))
    return tmp_path


def test_the_ways_stand_over_the_same_rows_and_at_its_size(folder: Path) -> None:
    cells = [[x.strip() for x in line.strip("|").split("|")] for line in ways(folder).splitlines()]
    assert [x[:3] for x in cells[2:]] == [
        [f"`{SET}`, 2", "600", "**hydraopt 5%**"],
        [f"`{SET}`, 2", "600", "**hydraopt-refit 5%**"],
    ]
    both = "hydraopt-refit 5%**, 24 validation prompts a task, 300 training rows learned"
    assert [(row[3], row[-1]) for row in every_way(folder)[1]] == [
        ("hydraopt 5%", f"{SET}.harm.json"),
        (both, f"{SET}-part-way.harm.json"),
        (both, f"{SET}.harm.json"),
    ]


def test_bundles_of_equal_bytes_are_told_apart_by_their_errors(folder: Path) -> None:
    row = {"method": "x", "setting": "5%", "bytes": 9, "bundle_error": 0.40004, "test_rows": 1}
    again = row | {"bundle_error": 0.4, "test_rows": 2}
    another = row | {"bundle_error": 0.42}
    assert best_seen([row, another, again]) == [again, another]


def test_nothing_is_said_of_what_was_not_measured(tmp_path: Path) -> None:
    assert ways(tmp_path) == "Not measured yet.\n"
