"""Curves in the manifest take bytes; they are left out where a size has no room for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydraopt import merge, open_bundle, shrink
from hydraopt.errors import BudgetError
from hydraopt.harm import solve
from hydraopt.merging.look import Look
from tests.harm.power_judge import SCALES, PowerJudge
from tests.marks import slow
from tests.raising import raises


def least(adapters, path: Path, **options: object) -> int:
    """Bytes of the smallest size that is not refused for its header and manifest."""
    with raises(BudgetError, got="--exact") as refused:
        merge(adapters, path, size=300, workers=1, **options)
    return int(str(refused.value).split(" bytes at least")[0].split()[-1].replace(",", ""))


def test_a_size_without_room_for_curves_is_kept(adapters, tmp_path: Path) -> None:
    judge = PowerJudge(adapters, SCALES)
    alone = least(adapters, tmp_path / "x")
    judged = least(adapters, tmp_path / "x", look=Look(judge))
    harms = 40 * len(SCALES)  # told of each task in any case
    assert judged <= alone + harms
    made = merge(adapters, tmp_path / "x", size=judged + 300, look=Look(judge=judge), workers=1)
    assert made.size <= judged + 300
    assert "curves_left_out" in [note.code for note in made.notes]
    tasks = open_bundle(tmp_path / "x").manifest.tasks
    assert all(task.harm and not task.curve for task in tasks)


def test_curves_are_kept_where_there_is_room(adapters, tmp_path: Path) -> None:
    made = merge(
        adapters, tmp_path / "x", size="30%", look=Look(judge=PowerJudge(adapters, SCALES))
    )
    assert "curves_left_out" not in [note.code for note in made.notes]
    assert all(task.curve for task in open_bundle(tmp_path / "x").manifest.tasks)


def test_a_round_that_misses_the_size_leaves_what_was_measured(
    adapters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = solve.search, []

    def missing(*given, **more):
        calls.append(given)
        if len(calls) > 1:
            raise BudgetError("made up")
        return real(*given, **more)

    monkeypatch.setattr(solve, "search", missing)
    made = merge(
        adapters, tmp_path / "x", size="30%", look=Look(judge=PowerJudge(adapters, SCALES))
    )
    assert made.size <= 0.3 * made.fp16_bytes
    assert len(calls) == 2


@pytest.mark.slow
@pytest.mark.parametrize("size", [1120, slow(1180), slow(1300)])
def test_a_shrink_counts_the_curves_that_stay(adapters, tmp_path: Path, size: int) -> None:
    """The bundle's own are in what it makes, whatever room there is."""
    merge(
        adapters,
        tmp_path / "big",
        size="40%",
        look=Look(judge=PowerJudge(adapters, SCALES)),
        workers=1,
    )
    assert shrink(tmp_path / "big", tmp_path / "small", size=size, workers=1).size <= size
    assert all(task.curve for task in open_bundle(tmp_path / "small").manifest.tasks)
