"""Merges by harm, with a judge that needs no model: harm is a power of each task's error."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from hydraopt import merge, open_bundle
from hydraopt.bundle.harm import Harm
from hydraopt.errors import BudgetError, UsageError
from hydraopt.harm import solve
from hydraopt.harm.trials import Trials, counted_harm
from hydraopt.merging.align import align
from hydraopt.merging.look import HarmSettings, Look, MeasuredHarm
from hydraopt.merging.outcome import Job
from tests.harm.power_judge import ANSWERS, SCALES, PowerJudge, harms_of
from tests.marks import slow
from tests.raising import raises


def test_a_size_is_shared_out_by_harm(adapters, tmp_path: Path) -> None:
    judge = PowerJudge(adapters, SCALES)
    plain = merge(adapters, tmp_path / "plain", size="30%", max_error=None)
    before = {name: SCALES[name] * error**1.2 for name, error in plain.errors.items()}
    made = merge(adapters, tmp_path / "shared", size="30%", look=Look(judge=judge))
    after = harms_of(tmp_path / "shared")
    assert made.size <= 0.3 * made.fp16_bytes
    assert made.size > 0.9 * 0.3 * made.fp16_bytes
    assert sum(after.values()) < 0.9 * sum(before.values())
    assert made.errors["hard"] < made.errors["fair"] < made.errors["easy"]
    assert {name: x.likely for name, x in made.harms.items()} == after


def test_bytes_go_where_the_originals_are_sure(adapters, tmp_path: Path) -> None:
    """Two tasks whose answers change alike: the one that is unsure of its own gets less."""

    class Unsure(PowerJudge):
        def measure(self, task, coded, error, apart=False) -> MeasuredHarm:
            judged = super().measure(task, coded, error)
            share = 0.1 if task == "easy" else 1.0
            return dataclasses.replace(judged, lost=share * judged.lost)

    made = merge(
        adapters,
        tmp_path / "x",
        size="30%",
        look=Look(judge=Unsure(adapters, dict.fromkeys(SCALES, 0.1))),
    )
    assert made.errors["easy"] > 1.5 * max(made.errors["fair"], made.errors["hard"])
    limit = merge(
        adapters,
        tmp_path / "y",
        harm="2%",
        look=Look(judge=Unsure(adapters, dict.fromkeys(SCALES, 0.1))),
    )
    assert limit.errors["easy"] < 1.2 * limit.errors["fair"]


FEW = MeasuredHarm(Harm(0, 24, 0.0, 1e-4, True), 0.0, 0.0, 0.0)
"""No answer of 24 is near to changing."""
COARSE = Harm(5, 25, 0.2, 0.04, True)
"""A trial in which a fifth of the answers changes, with a root of KL of 0.2."""
RATE = -math.log(0.8) / (0.2 + 0.01)
"""Of both together."""


def test_kl_tells_of_a_limit_what_few_answers_do_not() -> None:
    """By the rate of the task's own trials; of a size by the least of any task."""
    rate = RATE * (1 + 1 / math.sqrt(0.2 * 24))
    assert counted_harm("answers", FEW, [COARSE]) == pytest.approx(1 - math.exp(-0.01 * rate))
    assert counted_harm("lost", FEW, [COARSE]) == counted_harm("lost", FEW)
    assert 0 < counted_harm("lost", FEW) < counted_harm("answers", FEW, [COARSE])
    assert counted_harm("nats", FEW, [COARSE]) == 1e-4


def test_trials_in_which_most_answers_change_say_nothing_of_small_shares() -> None:
    """KL goes on to rise where no more answers can change, and far beyond a cliff."""
    far = Harm(24, 25, 0.95, 9.0, True)
    assert counted_harm("answers", FEW, [COARSE, far]) == counted_harm("answers", FEW, [COARSE])
    # But where there is no other, it tells more than the least.
    lost = MeasuredHarm(Harm(24, 24, 0.95, 4.0, True), 0.0, 0.0, 0.9)
    assert counted_harm("answers", lost, [far]) > 0.95


@pytest.mark.parametrize("answers", [4, 24, 96])
def test_a_limit_adds_standard_errors_of_the_rate_and_of_kl(answers: int) -> None:
    """The fewer answers change in the coarsest trial, the less is known."""
    judged = MeasuredHarm(Harm(0, answers, 0.0, 1e-4, True), 0.0, 3e-4, 0.0)
    rate = RATE * (1 + 1 / math.sqrt(max(0.2 * answers, 1)))
    told = counted_harm("answers", judged, [COARSE])
    assert told == pytest.approx(1 - math.exp(-rate * 0.02))


def test_a_task_whose_prompts_have_no_near_tie_keeps_its_limit(adapters, tmp_path: Path) -> None:
    """At small errors none of its answers is likely to change; those of other prompts would."""

    class Sure(PowerJudge):
        def measure(self, task, coded, error, apart=False) -> MeasuredHarm:
            judged = super().measure(task, coded, error)
            harm = judged.harm
            if task == "hard" and harm.likely < 0.05:
                harm = dataclasses.replace(harm, changed=0, likely=0.0)
            return dataclasses.replace(judged, harm=harm, likely_error=0.0)

    made = merge(adapters, tmp_path / "x", harm="2%", look=Look(judge=Sure(adapters, SCALES)))
    assert SCALES["hard"] * made.errors["hard"] ** 1.2 < 0.03


@pytest.mark.slow
def test_few_answers_move_a_size_part_of_the_way(adapters, tmp_path: Path) -> None:
    """What they tell of single tasks is noisy, so tasks stay nearer to where they are without."""
    merge(adapters, tmp_path / "none", size="40%")
    for count in (24, ANSWERS):
        judge = PowerJudge(adapters, SCALES, count)
        merge(adapters, tmp_path / str(count), size="40%", look=Look(judge=judge))
    none, some, many = (
        {task.name: np.log(task.error) for task in open_bundle(tmp_path / x).manifest.tasks}
        for x in ("none", "24", str(ANSWERS))
    )
    assert many["hard"] + 0.05 < some["hard"] < none["hard"] - 0.05
    assert none["easy"] + 0.05 < some["easy"] < many["easy"] - 0.05


def test_the_bundle_keeps_curves_and_says_that_it_was_judged(adapters, tmp_path: Path) -> None:
    merge(adapters, tmp_path / "x", size="30%", look=Look(judge=PowerJudge(adapters, SCALES)))
    manifest = open_bundle(tmp_path / "x").manifest
    assert manifest.recipe["judged"] == 3
    for task in manifest.tasks:
        assert 4 <= len(task.curve) <= 16
        assert [x.error for x in task.curve] == sorted(x.error for x in task.curve)
        for point in task.curve:
            wanted = min(SCALES[task.name] * point.error**1.2, 1.0)
            assert point.likely == pytest.approx(wanted, rel=0.15)


@pytest.mark.parametrize("limit", [0.02, slow(0.005)])
def test_a_limit_is_kept_by_every_task_and_not_overdone(adapters, tmp_path, limit) -> None:
    judge = PowerJudge(adapters, SCALES)
    merge(adapters, tmp_path / "x", harm=f"{100 * limit}%", look=Look(judge=judge))
    after = harms_of(tmp_path / "x")
    assert all(harm <= limit for harm in after.values())
    assert after["hard"] > 0.3 * limit
    assert after["fair"] > 0.3 * limit
    recipe = open_bundle(tmp_path / "x").manifest.recipe
    assert (recipe["limit"], recipe["value"]) == ("harm", limit)


def test_a_limit_on_kl(adapters, tmp_path: Path) -> None:
    merge(adapters, tmp_path / "x", harm="0.002nats", look=Look(judge=PowerJudge(adapters, SCALES)))
    tasks = open_bundle(tmp_path / "x").manifest.tasks
    assert all(task.harm.kl <= 0.002 for task in tasks)


@pytest.mark.slow  # three merges; one keeps its limit above
def test_a_smaller_limit_takes_more_bytes(adapters, tmp_path: Path) -> None:
    sizes = [
        merge(adapters, tmp_path / x, harm=x, look=Look(judge=PowerJudge(adapters, SCALES))).size
        for x in ("5%", "1%", "0.2%")
    ]
    assert sizes == sorted(sizes)


def test_a_task_without_prompts_is_between_others(adapters, tmp_path: Path) -> None:
    some = {name: SCALES[name] for name in ("easy", "hard")}
    made = merge(adapters, tmp_path / "x", size="30%", look=Look(judge=PowerJudge(adapters, some)))
    assert set(made.harms) == {"easy", "hard"}
    assert made.errors["hard"] < made.errors["fair"] < made.errors["easy"]


@pytest.mark.slow
def test_a_task_without_prompts_is_weighed_as_without_any(adapters, tmp_path: Path) -> None:
    judge = PowerJudge(adapters, {name: SCALES[name] for name in ("easy", "hard")})
    errors = {}
    for weight in (1.0, 8.0):
        out, given = tmp_path / str(weight), {"fair": weight}
        made = merge(adapters, out, size="30%", look=Look(judge=judge), importance=given)
        errors[weight] = made.errors["fair"]
    assert errors[8.0] < 0.8 * errors[1.0]


def test_a_limit_needs_prompts_of_all(adapters, tmp_path: Path) -> None:
    judge = PowerJudge(adapters, {"easy": 1.0, "hard": 1.0})
    with raises(UsageError, got="none of fair"):
        merge(adapters, tmp_path / "x", harm="1%", look=Look(judge=judge))
    with pytest.raises(UsageError):
        merge(adapters, tmp_path / "x", harm="1%")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("count", "more"), [(64, False), (65, True)])
def test_a_limit_that_nothing_keeps_names_the_task(
    adapters, tmp_path: Path, monkeypatch, count: int, more: bool
) -> None:
    """And asks for more prompts where more would be judged."""
    monkeypatch.setattr("hydraopt.harm.solve.DEFAULT_HARM", HarmSettings(prompts=count))

    class Stubborn(PowerJudge):
        def measure(self, task, coded, error, apart=False) -> MeasuredHarm:
            judged = super().measure(task, coded, error)
            if task != "fair":
                return judged
            return MeasuredHarm(Harm(3, 64, 0.05, 0.1, True), 0.0, 0.0, 0.05)

    with raises(BudgetError, adapter="fair", got="7.7 %") as refused:
        merge(adapters, tmp_path / "x", harm="1%", look=Look(judge=Stubborn(adapters, SCALES)))
    assert ("more prompts" in refused.value.do) == more
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("text", ["1", "%", "0%", "100%", "-1%", "0nats", "1e999nats", "x"])
def test_limits_that_are_none_are_refused(adapters, tmp_path, text) -> None:
    with pytest.raises(UsageError):
        merge(adapters, tmp_path / "x", harm=text, look=Look(judge=PowerJudge(adapters, SCALES)))


@pytest.mark.slow  # the order of tasks, below, shows it as well
def test_the_same_input_gives_the_same_bytes(adapters, tmp_path: Path) -> None:
    for name in "ab":
        merge(adapters, tmp_path / name, size="20%", look=Look(judge=PowerJudge(adapters, SCALES)))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_error_is_kept_and_its_harm_told(adapters, tmp_path: Path) -> None:
    made = merge(
        adapters, tmp_path / "x", max_error=0.2, look=Look(judge=PowerJudge(adapters, SCALES))
    )
    assert max(made.errors.values()) <= 0.2
    for name, harm in made.harms.items():
        assert harm.likely == pytest.approx(SCALES[name] * made.errors[name] ** 1.2, rel=0.02)


@pytest.mark.slow
def test_the_order_in_which_a_judge_names_its_tasks_does_not_matter(adapters, tmp_path) -> None:
    class Backwards(PowerJudge):
        def tasks(self) -> frozenset[str]:
            class Reversed(frozenset):
                def __iter__(self):
                    return iter(sorted(super().__iter__(), reverse=True))

            return Reversed(self.scales)

    for name, judge in (("a", PowerJudge), ("b", Backwards)):
        merge(adapters, tmp_path / name, size="20%", look=Look(judge=judge(adapters, SCALES)))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_limit_cannot_be_combined_with_a_refit(adapters, tmp_path: Path) -> None:
    judge = PowerJudge(adapters, SCALES)
    with pytest.raises(UsageError):
        merge(
            adapters,
            tmp_path / "x",
            harm="1%",
            look=Look(judge=judge, refit=lambda name, modules: {}),
        )
    assert not (tmp_path / "x").exists()


def test_what_something_was_fitted_to_is_judged_by_other_answers(adapters, tmp_path) -> None:
    class Noting(PowerJudge):
        def measure(self, task, coded, error, apart=False) -> MeasuredHarm:
            if apart:
                asked_apart.add(task)
            return super().measure(task, coded, error, apart)

    asked_apart: set[str] = set()

    def grow(name, modules):
        if name != "easy":
            return {}
        return {
            path: dataclasses.replace(x.record, exponents=x.record.exponents + 1)
            for path, x in modules().items()
        }

    judge = Noting(adapters, SCALES)
    merge(adapters, tmp_path / "x", size="30%", look=Look(judge=judge, refit=grow))
    assert asked_apart == {"easy"}


def test_what_can_be_lost_counts_as_what_is_lost(adapters) -> None:
    """A drift that counts for more than the answers is not more than all that there is."""

    class Drifting(PowerJudge):
        def measure(self, task, coded, error, apart=False) -> MeasuredHarm:
            return MeasuredHarm(Harm(0, 64, 0.0, 4.0, True), 0.0, 0.0, 0.02)

    judge = Drifting(adapters, SCALES)
    job = SimpleNamespace(pieces=align(adapters, None, lossless=False))
    trials = Trials(cast(Job, job), judge, "lost", 1, exact=True)
    trials.measure_base()
    lost = counted_harm("lost", judge.measure("easy", dict, 1.0))
    assert trials.most == pytest.approx(3 * [lost])


def test_a_step_that_did_not_pay_is_followed_by_half_of_the_next(
    adapters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is shared out after the trials measures badly; all tasks alike stays the best."""
    own, wanted = [], []
    first = solve.TRIALS - solve._ROUNDS
    measure, prices = Trials.measure, solve._prices

    def seen(self: Trials, draft, at, measured) -> None:
        own.append(np.log(at))
        measure(self, draft, at, measured)
        worse = 1 if len(own) <= first else 3
        self.harms[-1] = np.minimum(worse * self.harms[-1], 1.0)

    def told(*given):
        wanted.append(np.log(prices(*given)))
        return np.exp(wanted[-1])

    monkeypatch.setattr(Trials, "measure", seen)
    monkeypatch.setattr(solve, "_prices", told)
    made = merge(
        adapters, tmp_path / "x", size="30%", look=Look(judge=PowerJudge(adapters, SCALES))
    )
    assert len(own) == solve.TRIALS
    assert np.ptp(own[first] - wanted[0]) < 1e-6
    assert np.ptp(own[first + 1] - (own[0] + wanted[1]) / 2) < 1e-6
    assert np.ptp(wanted[1]) > 0.1
    assert np.ptp(list(made.errors.values())) < 0.05
