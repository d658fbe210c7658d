"""Merges by harm, with a judge that needs no model: harm is a power of each task's error."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from hydraopt import merge, open_bundle
from hydraopt.bundle.harm import Harm
from hydraopt.errors import BudgetError, UsageError
from hydraopt.merging.budget import HarmLimit
from hydraopt.merging.limit import counted_harm
from hydraopt.merging.look import HarmSettings, Look, MeasuredHarm
from tests.harm.power_judge import SCALES, PowerJudge, harms_of
from tests.marks import slow
from tests.raising import raises


def test_prompts_do_not_change_the_bytes_of_a_size(adapters, tmp_path: Path) -> None:
    """They are data-free without a refit; the bundle states what was measured."""
    plain = merge(adapters, tmp_path / "plain", size="30%")
    made = merge(
        adapters, tmp_path / "judged", size="30%", look=Look(judge=PowerJudge(adapters, SCALES))
    )
    assert made.size <= 0.3 * made.fp16_bytes
    assert made.errors == pytest.approx(plain.errors, rel=0.1)
    assert {name: x.likely for name, x in made.harms.items()} == harms_of(tmp_path / "judged")
    assert open_bundle(tmp_path / "judged").recipe["judged"] == 3


def test_a_limit_cannot_be_combined_with_fair(adapters, tmp_path: Path) -> None:
    judge = PowerJudge(adapters, SCALES)
    with pytest.raises(UsageError):
        merge(adapters, tmp_path / "x", harm="5%", look=Look(judge=judge), fair=True)
    assert not (tmp_path / "x").exists()


SHARES, NATS = HarmLimit(0.02), HarmLimit(0.01, shares=False)
FEW = MeasuredHarm(Harm(0, 24, 0.0, 1e-4, True), 0.0)
"""No answer of 24 is near to changing."""
COARSE = Harm(5, 25, 0.2, 0.04, True)
"""A trial in which a fifth of the answers changes, with a root of KL of 0.2."""
RATE = -math.log(0.8) / (0.2 + 0.01)
"""Of both together."""


def updated(predicted: float, changed: float, answers: int) -> float:
    """Mean plus one deviation of a Gamma prior of shape 2 that so many answers update."""
    shape, answers = 2 + changed, 2 / predicted + answers
    return (shape + math.sqrt(shape)) / answers


def test_kl_tells_of_a_limit_what_few_answers_do_not() -> None:
    """By the rate of the task's own rounds."""
    expected = updated(1 - math.exp(-0.01 * RATE), 0, 24)
    assert counted_harm(SHARES, FEW, [COARSE]) == pytest.approx(expected)
    assert 0 < counted_harm(SHARES, FEW) < counted_harm(SHARES, FEW, [COARSE])
    assert counted_harm(NATS, FEW, [COARSE]) == 1e-4


def test_trials_in_which_most_answers_change_say_nothing_of_small_shares() -> None:
    """KL goes on to rise where no more answers can change, and far beyond a cliff."""
    far = Harm(24, 25, 0.95, 9.0, True)
    assert counted_harm(SHARES, FEW, [COARSE, far]) == counted_harm(SHARES, FEW, [COARSE])
    # But where there is no other, it tells more than the least.
    lost = MeasuredHarm(Harm(24, 24, 0.95, 4.0, True), 0.0)
    assert counted_harm(SHARES, lost, [far]) > 0.95


@pytest.mark.parametrize("answers", [4, 24, 96])
def test_what_kl_predicts_is_updated_by_the_answers(answers: int) -> None:
    """One of them changed, perhaps by a tie."""
    judged = MeasuredHarm(Harm(1, answers, 1 / answers, 1e-4, True), 3e-4)
    rate = (-math.log(0.8) - math.log(1 - 1 / answers)) / (0.2 + 0.01)
    expected = updated(1 - math.exp(-rate * 0.02), 1, answers)
    assert counted_harm(SHARES, judged, [COARSE]) == pytest.approx(expected)


def test_what_changes_nothing_counts_as_nothing() -> None:
    assert counted_harm(SHARES, MeasuredHarm(Harm(0, 24, 0.0, 0.0, True), 0.0)) == 0


def test_a_task_whose_prompts_have_no_near_tie_keeps_its_limit(adapters, tmp_path: Path) -> None:
    """At small errors none of its answers is likely to change; those of other prompts would."""

    class Sure(PowerJudge):
        def measure(self, task, coded, apart=False) -> MeasuredHarm:
            judged = super().measure(task, coded)
            harm = judged.harm
            if task == "hard" and harm.likely < 0.05:
                harm = dataclasses.replace(harm, changed=0, likely=0.0)
            return dataclasses.replace(judged, harm=harm)

    made = merge(adapters, tmp_path / "x", harm="2%", look=Look(judge=Sure(adapters, SCALES, 24)))
    assert SCALES["hard"] * made.errors["hard"] ** 1.2 < 0.03


@pytest.mark.parametrize("limit", [0.02, slow(0.005)])
def test_a_limit_is_kept_by_every_task_and_not_overdone(adapters, tmp_path, limit) -> None:
    judge = PowerJudge(adapters, SCALES)
    merge(adapters, tmp_path / "x", harm=f"{100 * limit}%", look=Look(judge=judge))
    after = harms_of(tmp_path / "x")
    assert all(harm <= limit for harm in after.values())
    assert after["hard"] > 0.6 * limit
    assert after["fair"] > 0.6 * limit
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


def test_a_limit_needs_prompts_of_all(adapters, tmp_path: Path) -> None:
    judge = PowerJudge(adapters, {"easy": 1.0, "hard": 1.0})
    with raises(UsageError, got="none of fair"):
        merge(adapters, tmp_path / "x", harm="1%", look=Look(judge=judge))
    with pytest.raises(UsageError):
        merge(adapters, tmp_path / "x", harm="1%")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("count", "more"), [(64, False), slow(65, True)])
def test_a_limit_that_nothing_keeps_names_the_task(
    adapters, tmp_path: Path, monkeypatch, count: int, more: bool
) -> None:
    """And asks for more prompts where more would be judged."""
    monkeypatch.setattr("hydraopt.merging.limit.DEFAULT_HARM", HarmSettings(prompts=count))

    class Stubborn(PowerJudge):
        def measure(self, task, coded, apart=False) -> MeasuredHarm:
            judged = super().measure(task, coded)
            if task != "fair":
                return judged
            return MeasuredHarm(Harm(3, 64, 0.05, 0.1, True), 0.0)

    with raises(BudgetError, adapter="fair", got="7.2 %") as refused:
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
        merge(adapters, tmp_path / name, harm="5%", look=Look(judge=PowerJudge(adapters, SCALES)))
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
        merge(adapters, tmp_path / name, harm="5%", look=Look(judge=judge(adapters, SCALES)))
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
        def measure(self, task, coded, apart=False) -> MeasuredHarm:
            if apart:
                asked_apart.add(task)
            return super().measure(task, coded, apart)

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
