"""A row for each size that was measured with prompts and without, on the tasks of both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.reports import prompted as module
from benchmarks.reports.prompted import by_application, gains, with_prompts
from benchmarks.reports.same_rows import ORIGINAL, PROMPTED, Result
from benchmarks.reports.tables import MISSING

ROWS = 10
METHODS = {
    "five": {"method": "hydraopt", "setting": "5%", "share": 0.05},
    "two": {"method": "hydraopt", "setting": "2%", "share": 0.02},
    "learnt": {"method": PROMPTED, "setting": "2%", "share": 0.02},
    "learnt at 3 %": {"method": PROMPTED, "setting": "3%", "share": 0.03},
}
COSTS = {"five": (0, 0.01), "two": (4, 0.16), "learnt": (1, 0.04), "learnt at 3 %": (1, 0.02)}
"""Rows that change and are lost, and the KL of each row."""


def result(**costs: tuple[int, float]) -> Result:
    """Two tasks, of which only the first was measured with prompts."""
    values, numbers = {}, {ORIGINAL: np.ones((ROWS, 1))}
    for label, (lost, kl) in {**COSTS, **costs}.items():
        changed = (np.arange(ROWS) < lost).astype(float)
        values[label] = np.stack([changed, np.full(ROWS, kl)], axis=1)
        numbers[label] = 1 - changed[:, None]
    both = {"x": values, "y": {x: values[x] for x in ("five", "two")}}
    metrics = {"x": "exact match", "y": "exact match"}
    return Result("gemma3-5x8", "b-270m", METHODS, both, {"x": numbers, "y": numbers}, metrics)


def test_a_gain_needs_the_same_size_without_prompts() -> None:
    (gain,) = gains(result())
    assert (gain.size, gain.label) == ("2%", "learnt")
    assert [*gain.result.values] == ["x"]
    assert gain.fewer == pytest.approx(75)
    (none,) = gains(result(two=(0, 0.16)))
    assert none.fewer is None


def test_the_row_leads_from_no_prompts_to_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "results", lambda: [result()])
    (line,) = with_prompts().splitlines()[2:]
    about, share, changed, kl, drop, _, worst, mean, each = line.strip("| ").split(" | ")
    assert (about, share) == ("270 M, `gemma3-5x8` (1)", "2.0 %")
    assert changed.startswith("40.0 → 10.0 % [")
    assert kl == "0.16 → 0.04"
    assert drop.startswith("+40.0 → +10.0 % [")
    assert worst == "+10.0 % (x)"
    # Without prompts KL falls from 0.16 to 0.01 while the bytes grow from 2 to 5 %.
    assert mean.startswith(f"{(5 / 2) ** 0.5:.2f} [")
    assert each.startswith(f"{(5 / 2) ** 0.5:.2f} [")


def test_a_row_has_the_tasks_of_an_application_in_all_languages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good, bad = result(), result(two=(1, 0.02), learnt=(3, 0.03))
    names = {"dates-de": good, "dates-fr": bad, "slots-de": bad}
    both = replace(
        good,
        values={name: x.values["x"] for name, x in names.items()},
        numbers={name: x.numbers["x"] for name, x in names.items()},
        metrics=dict.fromkeys(names, "exact match"),
    )
    monkeypatch.setattr(module, "results", lambda: [both])
    dates, slots = (x.strip("| ").split(" | ")[2:] for x in by_application().splitlines()[2:])
    assert dates == ["dates (2)", "25.0 → 20.0 %", "0.09 → 0.035", "1", "+25.0 → +20.0 %"]
    assert slots == ["slots (1)", "10.0 → 30.0 %", "0.02 → 0.03", "1", "+10.0 → +30.0 %"]


def test_a_set_without_languages_has_no_row_for_applications(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "results", lambda: [result()])
    assert by_application() == MISSING


def test_nothing_measured_with_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "results", list)
    assert with_prompts() == MISSING
