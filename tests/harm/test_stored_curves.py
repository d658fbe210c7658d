"""The curves that a bundle holds, asked for harm when its tasks are coded again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hydraopt import merge, open_bundle
from hydraopt.bundle.harm import Harm
from hydraopt.bundle.spec import Manifest, TaskEntry
from hydraopt.editing.held import against_originals, lost_harm
from hydraopt.harm.stored import StoredCurves
from hydraopt.merging.look import Look
from tests.harm.power_judge import SCALES, PowerJudge


@pytest.fixture(scope="module")
def manifest(adapters, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    path = tmp_path_factory.mktemp("curves") / "x"
    merge(adapters, path, size="45%", look=Look(judge=PowerJudge(adapters, SCALES)))
    return open_bundle(path).manifest


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
            told = curves.between(task.name, error)
            if told is None:
                assert not 0.95 * task.curve[0].error < error < 1.05 * task.curve[-1].error
                continue
            low, _, high = told.likely
            assert 0.95 * low <= said.likely <= 1.05 * high


def test_a_curve_goes_where_nobody_can_tell_any_more_where_on_it_a_task_is(
    manifest: Manifest,
) -> None:
    task = _refitted(manifest.tasks[-1])
    before = _with(manifest, task)
    again = against_originals(manifest, before, [x.name for x in manifest.tasks])
    assert [bool(x.curve) for x in again.tasks] == [x.name != task.name for x in manifest.tasks]
    assert all(x.harm is None for x in again.tasks)
    names = {x.name for x in manifest.tasks}
    told = list(lost_harm(before, names))
    assert (told[1].code, told[1].where) == ("curves_lost", task.name)
    assert (
        len(list(lost_harm(before, names - {task.name})))
        == len(list(lost_harm(manifest, names)))
        == 1
    )


def test_a_finer_trial_that_did_more_harm_moves_no_task(manifest: Manifest) -> None:
    """Measured harm is noisy, so a curve need not rise; a task that is one of its trials stays
    there, and keeps its curve."""
    plain = manifest.tasks[-1]
    middle, finer = plain.curve[2], plain.curve[1]
    curve = (plain.curve[0], replace(finer, kl=1.5 * middle.kl), *plain.curve[2:])
    harm = Harm(1, 100, middle.likely, middle.kl, True)
    task = replace(plain, error=middle.error, harm=harm, curve=curve)
    before = _with(manifest, task)
    told = StoredCurves(before).measure(task.name, dict, 0.0).harm.likely
    assert told == pytest.approx(middle.likely, rel=1e-3)
    again = against_originals(manifest, before, [task.name])
    assert next(x for x in again.tasks if x.name == task.name).curve


def test_an_error_above_one_is_on_a_curve_that_keeps_it_as_one(manifest: Manifest) -> None:
    """A small size may make such: what the manifest states of it is known, and it is no refit."""
    plain = manifest.tasks[-1]
    last = replace(plain.curve[-1], error=1.0)
    harm = Harm(1, 100, last.likely, last.kl, True)
    for kl in (last.kl, 1.05 * last.kl):
        task = replace(
            plain, error=1.24, harm=replace(harm, kl=kl), curve=(*plain.curve[:-1], last)
        )
        before = _with(manifest, task)
        curves = StoredCurves(before)
        assert curves.measure(task.name, dict, 0.0).harm.likely == pytest.approx(last.likely)
        assert curves.between(task.name, 1.24) is None  # the point may stand for any such error
        again = against_originals(manifest, before, [task.name])
        assert next(x for x in again.tasks if x.name == task.name).curve


def test_what_was_measured_is_not_taken_for_what_lies_beyond_the_last_trial(
    manifest: Manifest,
) -> None:
    """Its harm is that of an error a little larger, as rounded numbers may say."""
    plain = manifest.tasks[-1]
    last = plain.curve[-1]
    harm = Harm(1, 100, last.likely, 1.2 * last.kl, True)
    task = replace(plain, error=1.08 * last.error, harm=harm)
    said = StoredCurves(_with(manifest, task)).measure(task.name, dict, 0.0).harm
    assert said.likely == pytest.approx(last.likely)


@pytest.mark.slow
def test_every_task_that_a_merge_coded_is_one_of_its_trials(adapters, tmp_path: Path) -> None:
    """Whatever other trial has nearly its error: without a refit all curves stay."""
    judge = PowerJudge(adapters, SCALES)
    for size in ("20%", "30%", "45%"):
        merge(adapters, tmp_path / "x", size=size, look=Look(judge=judge))
        made = open_bundle(tmp_path / "x").manifest
        names = [x.name for x in made.tasks]
        for task in made.tasks:
            point = next(x for x in task.curve if x.kl == pytest.approx(task.harm.kl, rel=0.05))
            assert point.error == pytest.approx(min(task.error, 1.0), rel=0.025)
        assert all(x.curve for x in against_originals(made, made, names).tasks)
