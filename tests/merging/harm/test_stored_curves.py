"""The curves that a bundle holds, asked for harm when its tasks are coded again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hydraopt import merge, open_bundle
from hydraopt.bundle.harm import Harm
from hydraopt.bundle.spec import Manifest, TaskEntry
from hydraopt.merging.harm.stored import StoredCurves
from hydraopt.merging.held import against_originals
from tests.merging.harm.conftest import SCALES, PowerJudge


@pytest.fixture
def manifest(adapters, tmp_path: Path) -> Manifest:
    merge(adapters, tmp_path / "x", size="45%", judge=PowerJudge(adapters, SCALES))
    return open_bundle(tmp_path / "x").manifest


def _with(manifest: Manifest, task: TaskEntry) -> Manifest:
    return replace(
        manifest, tasks=tuple(task if x.name == task.name else x for x in manifest.tasks)
    )


def _refitted(task: TaskEntry) -> TaskEntry:
    """As after a refit: beyond all trials in error, and at the second of them in harm."""
    point = task.curve[1]
    return replace(task, error=1.2, harm=Harm(1, 100, point.likely, point.kl, True))


def test_a_task_is_on_its_curve_where_its_harm_is(manifest: Manifest) -> None:
    """What a refit moved makes the error larger, not the harm: more is not lost by it."""
    plain = manifest.tasks[-1]
    task = _refitted(plain)
    assert task.error > plain.curve[-1].error
    curves = StoredCurves(_with(manifest, task))
    told = [curves.measure(task.name, dict, x * task.curve[1].error).harm for x in (0, 1, 2)]
    assert told[0].likely == pytest.approx(task.curve[1].likely, rel=0.15)
    assert told[0].kl == pytest.approx(task.curve[1].kl, rel=0.3)
    # Squares of errors add: with as much and twice as much on top the error is 2^(1/2) and 5^(1/2)
    # of what it was, and harm goes with its power of 1.2.
    for got, more in zip(told, (1, 2**0.6, 5**0.6), strict=True):
        assert got.likely == pytest.approx(more * told[0].likely, rel=0.15)
    assert told[-1].likely < 1


def test_what_the_encoder_made_is_on_its_curve_where_its_error_is(manifest: Manifest) -> None:
    for task in manifest.tasks:
        curves = StoredCurves(manifest)
        for more in (0.0, 0.1):
            error = (task.error**2 + more**2) ** 0.5
            said = curves.measure(task.name, dict, more).harm
            assert said.likely == pytest.approx(curves.of_original(task.name, error).likely)


def test_a_curve_goes_where_nobody_can_tell_any_more_where_on_it_a_task_is(
    manifest: Manifest,
) -> None:
    task = _refitted(manifest.tasks[-1])
    before = _with(manifest, task)
    again = against_originals(manifest, before, [x.name for x in manifest.tasks])
    assert [bool(x.curve) for x in again.tasks] == [x.name != task.name for x in manifest.tasks]
    assert all(x.harm is None for x in again.tasks)


def test_a_finer_trial_that_did_more_harm_moves_no_task(manifest: Manifest) -> None:
    """Measured harm is noisy, so a curve need not rise; a task that is one of its trials stays
    there, and keeps its curve."""
    plain = manifest.tasks[-1]
    middle, finer = plain.curve[2], plain.curve[1]
    curve = (plain.curve[0], replace(finer, kl=1.5 * middle.kl), *plain.curve[2:])
    harm = Harm(1, 100, middle.likely, middle.kl, True)
    task = replace(plain, error=middle.error, harm=harm, curve=curve)
    before = _with(manifest, task)
    assert StoredCurves(before).measure(task.name, dict, 0.0).harm.likely == pytest.approx(
        StoredCurves(before).of_original(task.name, middle.error).likely, rel=1e-3
    )
    again = against_originals(manifest, before, [task.name])
    assert next(x for x in again.tasks if x.name == task.name).curve
