"""Merges by harm that are fair, and bundles with curves of harm that are shrunk."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hydraopt import merge, open_bundle, shrink
from hydraopt.bundle.harm import Harm
from hydraopt.errors import UsageError
from hydraopt.merging.look import Look, MeasuredHarm
from tests.harm.power_judge import SCALES, PowerJudge, harms_of
from tests.marks import slow


@pytest.mark.slow
def test_shrink_shares_out_by_the_curves_that_the_bundle_holds(adapters, tmp_path: Path) -> None:
    judge = PowerJudge(adapters, SCALES)
    merge(adapters, tmp_path / "big", size="45%", look=Look(judge=judge))
    merge(adapters, tmp_path / "untold", size="45%", max_error=None)
    made = {
        name: shrink(tmp_path / name, tmp_path / f"{name}-small", size="40%")
        for name in ("big", "untold")
    }
    errors = made["big"].errors
    assert errors["hard"] < errors["fair"] < errors["easy"]
    harm = {
        name: sum(SCALES[task] * error**1.2 for task, error in x.errors.items())
        for name, x in made.items()
    }
    assert harm["big"] < 0.95 * harm["untold"]
    for task in open_bundle(tmp_path / "big-small").manifest.tasks:
        assert task.harm is None
        assert task.curve


@pytest.mark.parametrize(
    ("scales", "limit", "size"),
    [
        slow({"easy": 1e-6, "fair": 1e-3, "hard": 0.6}, {"harm": "2%"}, "18%"),
        ({"easy": 1e-6, "fair": 1e-3, "hard": 0.6}, {"harm": "2%"}, "15%"),
        slow({"easy": 1e-6, "fair": 1e-3, "hard": 0.6}, {"size": "30%"}, "29%"),
        slow({"easy": 1e-6, "hard": 0.6}, {"size": "30%"}, "29%"),
        slow({"easy": 1e-6, "fair": 1e-3}, {"size": "30%"}, "29%"),
        slow({"easy": 1e-6, "fair": 1e-3}, {"size": "30%"}, "25%"),
    ],
)
def test_shrink_gives_no_measured_task_more_bytes_than_it_had(
    adapters, tmp_path: Path, scales, limit, size: str
) -> None:
    """What is coded again does not come nearer to the original, whatever it takes. Of hundreds of
    bytes some are the price of being coded at all."""
    merge(adapters, tmp_path / "big", look=Look(judge=PowerJudge(adapters, scales)), **limit)
    made = shrink(tmp_path / "big", tmp_path / "small", size=size)
    before, after = (
        {name: len(bundle.read(f"task/{bundle[name].entry.content}")) for name in SCALES}
        for bundle in (open_bundle(tmp_path / "big"), open_bundle(tmp_path / "small"))
    )
    assert all(after[name] <= 1.1 * before[name] + 100 for name in scales), (before, after)
    notes = {note.code: note.where for note in made.notes}
    assert notes["curves_used"] == ", ".join(sorted(scales))
    assert "harm_outdated" in notes


def test_fair_harms_the_worst_task_least(adapters, tmp_path: Path) -> None:
    """The sum takes bytes from a task that they hardly help; fair does not."""

    class Flat(PowerJudge):
        def measure(self, task, coded, error, apart=False) -> MeasuredHarm:
            judged = super().measure(task, coded, error)
            if task != "hard":
                return judged
            share = (judged.lost / self.scales[task]) ** 0.3 * 0.1
            return dataclasses.replace(judged, lost=share, harm=Harm(3, 64, share, share, True))

    judge = Flat(adapters, {"easy": 0.1, "fair": 0.1, "hard": 0.1})
    merge(adapters, tmp_path / "x", size="30%", look=Look(judge=judge))
    made = merge(adapters, tmp_path / "y", size="30%", look=Look(judge=judge), fair=True)
    before, after = harms_of(tmp_path / "x"), harms_of(tmp_path / "y")
    assert made.size <= 0.3 * made.fp16_bytes
    assert max(after.values()) < 0.97 * max(before.values())
    assert after["hard"] / after["easy"] < 0.8 * before["hard"] / before["easy"]


def test_fair_leaves_a_task_alone_that_has_nothing_to_lose(adapters, tmp_path: Path) -> None:
    """Its answers stay with the base model alone: only the least that a drift counts is left."""

    class Idle(PowerJudge):
        def measure(self, task, coded, error, apart=False) -> MeasuredHarm:
            judged = super().measure(task, coded, error)
            return dataclasses.replace(judged, lost=0.0) if task == "easy" else judged

    made = merge(
        adapters, tmp_path / "x", size="30%", look=Look(judge=Idle(adapters, SCALES)), fair=True
    )
    assert made.errors["easy"] > 1.5 * max(made.errors["fair"], made.errors["hard"])


def test_a_limit_on_harm_is_fair_already(adapters, tmp_path: Path) -> None:
    judge = PowerJudge(adapters, SCALES)
    with pytest.raises(UsageError):
        merge(adapters, tmp_path / "x", harm="5%", look=Look(judge=judge), fair=True)
    assert not (tmp_path / "x").exists()
