"""A plan by harm, as a table: numbers that can be read, and what was not measured."""

from __future__ import annotations

from typing import Any

import pytest

from hydraopt.cli.common import counted, some_of
from hydraopt.cli.results import show_plan


def plan(counts: str, harms: list[float], alone: int = 0) -> dict[str, Any]:
    """One task with trials of these harms, planned at the last, and tasks without prompts."""
    trials = [{"size": 1000.0 * (3 - i), "harm": x} for i, x in enumerate(harms)]
    tasks = [{"name": "de", "trials": trials, "size": 1000.0, "harm": harms[-1]}]
    # One of them has nothing that is coded, so that it has no price.
    tasks += [
        {"name": f"x{i}", "trials": (), "size": 500.0 * i, "harm": None} for i in range(alone)
    ]
    return {"counted": counts, "tasks": tasks, "size": 2000.0, "fp16_bytes": 10_000}


@pytest.mark.parametrize(
    ("counts", "harms", "shown", "unit"),
    [
        ("answers", [5e-95, 0.0123], ["< 0.001", "1.23"], "expected %"),
        ("lost", [0.0, 0.5], ["< 0.001", "50"], "expected %"),
        ("nats", [2e-7, 0.0004], ["< 1e-06", "0.0004"], "expected nats"),
    ],
)
def test_a_harm_is_told_in_few_digits(capsys, counts, harms, shown, unit) -> None:
    show_plan(plan(counts, harms), as_json=False)
    told = " ".join(capsys.readouterr().out.split())
    assert all(f"kB {x}" in told for x in shown)
    assert told.count(shown[1]) == 2  # the trial, and what is expected
    assert unit in told
    assert "note" not in told


def test_tasks_without_prompts_are_counted(capsys) -> None:
    for alone, said in ((2, "note: 1 task without"), (3, "note: 2 tasks without")):
        show_plan(plan("lost", [0.1, 0.2], alone), as_json=False)
        assert said in capsys.readouterr().out


def test_some_names_and_how_many_more() -> None:
    assert some_of(["a"]) == "a"
    assert some_of(["a", "b", "c"]) == "a, b, c"
    assert some_of(list("abcde")) == "a, b, c and 2 more"
    assert [counted(n, "task") for n in (0, 1, 2)] == ["0 tasks", "1 task", "2 tasks"]
