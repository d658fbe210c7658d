"""A plan by harm, as a table: numbers that can be read, and what was not measured."""

from __future__ import annotations

import dataclasses

import pytest

from hydraopt.bundle import Harm
from hydraopt.cli.merging import show_plan
from hydraopt.merging import Plan
from hydraopt.merging.job import TaskTrial
from hydraopt.merging.pipeline import PlannedTask
from hydraopt.notes import Note


def plan(counts: str, harms: list[float]) -> Plan:
    """One task with trials of these harms, planned at the last."""
    trials = [TaskTrial(1000.0 * (9 - i), 0.1, x, x, x) for i, x in enumerate(harms)]
    stated = Harm(changed=3, answers=48, likely=0.0471, kl=0.0789, held_out=True)
    tasks = [PlannedTask("de", 1000.0, 0.1, stated, harms[-1], tuple(trials))]
    return Plan("harm", 0.01, counts, tuple(tasks), 2000, 10_000, (), False)


@pytest.mark.parametrize(
    ("counts", "harms", "shown", "unit"),
    [
        ("answers", [5e-95, 0.0123], "1.23", "counted %"),
        ("answers", [0.0, 0.5], "50", "counted %"),
        ("nats", [2e-7, 0.0004], "0.0004", "counted nats"),
    ],
)
def test_a_harm_is_told_in_few_digits(capsys, counts, harms, shown, unit) -> None:
    show_plan(plan(counts, harms), as_json=False)
    told = " ".join(capsys.readouterr().out.split())
    assert f"kB {shown} " in told
    assert unit in told
    assert "3 of 48 4.71 % 0.0789 nats" in told
    assert "size 2,000 bytes (2.00 kB), 20.00 % of the fp16 bytes" in told
    assert not any(x in told for x in ("note", "before a refit", "are shown"))


def test_notes_and_a_refit_are_told(capsys) -> None:
    made = dataclasses.replace(
        plan("answers", [0.1]), notes=(Note("all_fits", "one"), Note("all_fits", "two")), refit=True
    )
    show_plan(made, as_json=False)
    told = capsys.readouterr().out
    assert all(text in told for text in ("note: one", "note: two", ", before a refit"))


def test_a_size_has_measured_harm_and_no_trials(capsys) -> None:
    stated = Harm(changed=3, answers=48, likely=0.0471, kl=0.0789, held_out=True)
    tasks = PlannedTask("de", 1000.0, 0.1, stated), PlannedTask("en", 500.0, 0.1, None)
    show_plan(Plan("size", 2000, "answers", tasks, 2000, 10_000, (), False), as_json=False)
    told = " ".join(capsys.readouterr().out.split())
    assert "de 1.00 kB - 3 of 48 4.71 % 0.0789 nats" in told
    assert "en 500 B - - - -" in told
