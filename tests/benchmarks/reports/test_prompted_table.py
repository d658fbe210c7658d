"""Rivals that got prompts, beside hydraopt's bundles on the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quality.sets import pinned
from benchmarks.reports.every_method import rows_by_set
from benchmarks.reports.prompted import every_row, prompted
from benchmarks.reports.scores import headline
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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (a, _), (b, _), (c, _) = ADAPTERS
    asked = {"prompts": {"of": "validation", "a_task_at_most": 24, "learned": 300}}
    mine = (
        result("prompted", {"group": "2 bit", "half": ""}, {a: 300, b: 300}, ADAPTERS[:2]) | asked
    )
    del mine["tasks"][1]["results"]["half"]  # not scored yet
    whole = result("harm", {"hydraopt-refit": "5%"}, {a: 300, b: 300, c: 300}, ADAPTERS)
    judge = {"split": "validation", "count": 24, "learned": 300}
    whole["methods"]["hydraopt-refit"]["options"] = {"judge": judge}
    fewer = result("rivals", {"hydraopt": "5%", "other": ""}, {a: 24, b: 24, c: 24}, ADAPTERS)
    for name, made in (("prompted", mine), ("x.harm", whole), ("rivals", fewer)):
        (tmp_path / f"{SET}.{name}.json").write_text(json.dumps(made))
    return tmp_path


def test_ours_stand_beside_them_over_the_same_rows(folder: Path) -> None:
    text = prompted(folder)
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[x.strip() for x in line.strip("|").split("|")] for line in lines[2:]]
    assert [x[0] for x in cells] == ["group 2 bit", "**hydraopt-refit 5%**"]
    # The second task of the two loses 5 %; a third one, of ours alone, does not count.
    assert {x[2].partition(" ")[0] for x in cells} == {"2.50"}
    assert cells[1][1:2] + cells[1][4:] == ["5.0 %", "2.5 %", "0.125"]
    assert [row[-1] for row in every_row(folder)[1]] == [
        f"{SET}.prompted.json",
        f"{SET}.x.harm.json",
    ]
    assert "600 test rows" in text
    assert "24 validation rows of a task, and 300 training rows" in " ".join(text.split())


def test_rows_of_few_adapters_stand_for_no_set(folder: Path) -> None:
    ours = {row["method"] for row in headline(folder)["sets"][SET]["rows"]}
    assert ours == {row["method"] for row in rows_by_set(folder)[SET]}
    assert ours == {"hydraopt", "hydraopt-refit", "other"}


def test_nothing_is_said_of_what_was_not_measured(tmp_path: Path) -> None:
    assert prompted(tmp_path) == "Not measured yet.\n"
