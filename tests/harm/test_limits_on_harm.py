"""A limit on harm: how it is looked for, and what is said of it on the way and at the end."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hydraopt import merge, open_bundle, read_adapters
from hydraopt.bundle import Harm
from hydraopt.errors import BudgetError, HydraoptError, UsageError
from hydraopt.merging import HarmSettings, Look, MeasuredHarm, align, finish
from hydraopt.merging.alignment import coded_of
from hydraopt.merging.harmlimit import counted_harm
from hydraopt.merging.limits import HarmLimit
from hydraopt.merging.options import coded_names
from hydraopt.merging.passes import Passes
from hydraopt.merging.weights import importances
from tests.harm.power_judge import SCALES, THREE_LAYERS, PowerJudge, harms_of, planned
from tests.marks import slow
from tests.raising import raises


@pytest.fixture
def prices(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, ...]]:
    """Of all passes, one for each content."""
    run, seen = Passes.run, []

    def noted(self, price, whole, counting, *rest):
        seen.append((price, *np.asarray(whole).ravel()))
        return run(self, price, whole, counting, *rest)

    monkeypatch.setattr(Passes, "run", noted)
    return seen


def test_a_limit_takes_no_more_bytes_than_a_size_that_keeps_it(adapters, tmp_path: Path) -> None:
    scales = {"easy": 0.001, "fair": 0.01, "hard": 0.05}
    judge = PowerJudge(adapters, scales)
    sized = merge(adapters, tmp_path / "sized", size="12%", look=Look(judge=judge), workers=1)
    limit = 1.3 * max(x.likely for x in sized.harms.values())
    asked = f"{100 * limit}%"
    limited = merge(adapters, tmp_path / "limited", harm=asked, look=Look(judge=judge), workers=1)
    assert max(x.likely for x in limited.harms.values()) <= limit
    assert limited.size <= sized.size


def test_tasks_without_harm_are_left_with_little_and_no_pass_is_made_twice(
    adapters, tmp_path: Path, prices
) -> None:
    judge = PowerJudge(adapters, dict.fromkeys(("easy", "fair", "hard"), 1e-9))
    made = merge(adapters, tmp_path / "x", harm="5%", look=Look(judge=judge), workers=1)
    assert made.fraction < 0.1
    assert len(set(prices)) == len(prices)


def test_a_limit_below_one_answer_gets_a_note(adapters, tmp_path: Path) -> None:
    for answers, told in ((49, True), (50, False)):
        judge = PowerJudge(adapters, SCALES, answers)
        notes = merge(adapters, tmp_path / "x", harm="2%", look=Look(judge=judge), workers=1).notes
        assert (("few_answers", "easy, fair, hard") in [(x.code, x.where) for x in notes]) == told
    judge = PowerJudge(adapters, SCALES, 256)
    notes = merge(adapters, tmp_path / "x", harm="0.3%", look=Look(judge=judge), workers=1).notes
    assert "few_answers" in [note.code for note in notes]
    judge = PowerJudge(adapters, SCALES, 10)
    notes = merge(
        adapters, tmp_path / "x", harm="0.02nats", look=Look(judge=judge), workers=1
    ).notes
    assert "few_answers" not in [note.code for note in notes]


def test_all_trials_of_a_task_are_counted_by_what_all_of_them_show(adapters) -> None:
    """Of few answers none changes in the first trial; a coarser one shows how fast they do."""

    class Cliff(PowerJudge):
        def measure(self, task, coded, apart=False) -> MeasuredHarm:
            told = super().measure(task, coded)
            likely = told.harm.likely if told.harm.likely > 0.03 else 0.0
            harm = Harm(round(24 * likely), 24, likely, told.harm.kl, True)
            return MeasuredHarm(harm, 0.0)

    made = planned(adapters, Cliff(adapters, {"easy": 0.05, "fair": 0.1, "hard": 0.2}), harm="8%")
    measured = []
    for task in made.tasks:
        quiet = [trial for trial in task.trials if trial.likely == 0]
        rates = [-math.log1p(-trial.counted) / math.sqrt(trial.kl) for trial in quiet]
        assert rates == pytest.approx(rates[:1] * len(rates))
        measured.append(bool(rates) and rates[0] > 0.1)
    assert any(measured)


def test_what_is_chosen_keeps_the_limit_by_all_that_was_seen(adapters) -> None:
    """Harm that goes up and down with the error tells other rates in each trial."""

    class Noisy(PowerJudge):
        def measure(self, task, coded, apart=False) -> MeasuredHarm:
            told = super().measure(task, coded)
            random = np.random.default_rng(round(1e9 * told.harm.kl) + self.answers)
            likely = min(told.harm.likely * float(np.exp(random.standard_normal())), 1.0)
            kl = told.harm.kl * float(np.exp(random.standard_normal()))
            harm = Harm(round(48 * likely), 48, likely, kl, True)
            return MeasuredHarm(harm, 0.1 * kl)

    for seed in range(7, 10):
        made = planned(
            adapters, Noisy(adapters, {"easy": 0.05, "fair": 0.2, "hard": 0.5}, seed), harm="10%"
        )
        for task in made.tasks:
            assert task.counted is not None
            assert task.counted <= 0.1
            assert task.counted in [trial.counted for trial in task.trials]


def test_tasks_of_equal_content_are_told_their_own_harm(make_adapter, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    modules = {
        p: (rng.standard_normal((48, 4)), rng.standard_normal((4, 40))) for p in THREE_LAYERS
    }
    one = read_adapters([make_adapter(tmp_path / name, modules) for name in ("de", "en")])
    made = planned(one, PowerJudge(one, {"de": 0.01, "en": 0.3}), harm="5%")
    for task in made.tasks:
        assert task.counted in [trial.counted for trial in task.trials]
    assert made.tasks[0].counted < 0.5 * made.tasks[1].counted


def test_one_answer_is_too_few_for_a_share(adapters, tmp_path: Path, prices) -> None:
    """Refused after one trial, because no coding helps: one answer tells nothing of others."""
    judge = PowerJudge(adapters, SCALES, 1)
    with pytest.raises(UsageError):
        merge(adapters, tmp_path / "x", harm="1%", look=Look(judge=judge), workers=1)
    assert len(prices) == 1
    assert not (tmp_path / "x").exists()
    assert merge(adapters, tmp_path / "x", harm="60%", look=Look(judge=judge), workers=1).size > 0


class Chance(PowerJudge):
    """A judge of which chance decides between 1.2 % and 7 %, down to small errors."""

    def measure(self, task, coded, apart=False) -> MeasuredHarm:
        told = super().measure(task, coded)
        chance = 0.012 * 6 ** np.random.default_rng([self.seed, self.asked]).uniform()
        error = (told.harm.likely / self.scales[task]) ** (1 / 1.2)
        likely = chance if error > 0.001 else told.harm.likely
        return replace(told, harm=replace(told.harm, likely=likely, kl=1e-6))

    seed = 0


@pytest.mark.parametrize("seed", [0, *map(slow, range(1, 4))])
def test_rounds_go_on_until_all_tasks_keep_the_limit_at_once(adapters, tmp_path, seed: int) -> None:
    judge = Chance(adapters, SCALES)
    judge.seed = seed
    shares: list[float] = []

    def told(stage: str, done: int, total: int) -> None:
        if "round" in stage:
            shares.append(done / total)

    look = Look(judge=judge)
    made = merge(adapters, tmp_path / "x", harm="2%", look=look, workers=1, progress=told)
    assert max(x.likely for x in made.harms.values()) <= 0.02
    assert shares == sorted(shares)
    assert shares[-1] < 1  # a round under way is not the end


# --- merges by harm, with a judge that needs no model: harm is a  --------------------------------


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
    monkeypatch.setattr("hydraopt.merging.harmlimit.DEFAULT_HARM", HarmSettings(prompts=count))

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


# --- tasks of equal content under a limit on harm, and tasks of w --------------------------------


@pytest.mark.slow
def test_the_task_that_breaks_a_limit_is_named_among_equal_contents(
    adapters, make_adapter, tmp_path: Path
) -> None:
    first = next(x for x in adapters if x.name == "fair")
    modules = {path: module.factors() for path, module in first.modules.items()}
    every = read_adapters([make_adapter(tmp_path / "in" / name, modules) for name in "abc"])

    class Stubborn(PowerJudge):
        def measure(self, task, coded, apart=False) -> MeasuredHarm:
            likely = {"a": 0.001, "b": 0.05, "c": 0.02}[task]
            return MeasuredHarm(Harm(0, 64, likely, likely**2, True), 0.0)

    judge = Stubborn(every, dict.fromkeys("abc", 0.3))
    with raises(BudgetError, adapter="b"):
        merge(every, tmp_path / "x", harm="1%", look=Look(judge=judge), workers=1)


def test_weights_of_equal_contents_are_summed(make_adapter, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    same, other = ({THREE_LAYERS[0]: (rng.random((8, 2)), rng.random((2, 8)))} for _ in range(2))
    rows = (("a", same), ("b", same), ("c", other))
    pieces = align(
        read_adapters([make_adapter(tmp_path / x, y) for x, y in rows]), None, lossless=False
    )
    for given, summed in (({}, [1, 2]), ({"b": 3.0}, [1, 4])):
        assert sorted(importances(pieces, given)) == summed


def test_a_task_of_which_nothing_is_coded_needs_no_prompts(adapters) -> None:
    pieces = align(adapters, None, lossless=True)
    assert list(coded_names(pieces)) == []
    assert sorted(coded_names(align(adapters, None, lossless=False))) == sorted(SCALES)
    assert sorted(coded_of([replace(adapters[0], modules={}), *adapters[1:]])) == sorted(
        x.name for x in adapters[1:]
    )


# --- what is checked before harm is measured, and what is counted --------------------------------


def test_what_is_wrong_is_told_before_anything_is_measured(adapters, tmp_path: Path) -> None:
    judge, looked = PowerJudge(adapters, SCALES), []

    def look() -> dict[str, dict[str, float]]:
        looked.append(0)
        return {}

    for wrong in (
        {"size": "3O%"},
        {"size": "30%", "forms": ["privat"]},
        {"size": "30%", "importance": {"heasy": 2.0}},
        {"size": "30%", "importance": {"easy": -2.0}},
        {"harm": "2%", "importance": {"easy": 2.0}},
        {"size": "30%", "base": tmp_path / "nothing"},
    ):
        with pytest.raises(HydraoptError):
            merge(adapters, tmp_path / "x", look=Look(judge=judge, sensitivity=look), **wrong)
    assert (judge.asked, looked) == (0, [])
    merge(adapters, tmp_path / "x", size="30%", look=Look(sensitivity=look))
    assert looked == [0]


def test_a_refit_leaves_room_for_what_is_told_of_harm(adapters, tmp_path, monkeypatch) -> None:
    counted, real = [], finish.refitted

    def refitted(before, *arguments):
        job, draft = real(before, *arguments)
        counted.append(job.size(draft))
        return job, draft

    monkeypatch.setattr(finish, "refitted", refitted)
    judge = PowerJudge(adapters, SCALES)
    same = lambda name, modules: {p: x.record for p, x in modules().items()}  # noqa: E731
    made = merge(adapters, tmp_path / "x", size="30%", look=Look(judge=judge, refit=same))
    assert counted == [pytest.approx(made.size, abs=12)]  # three tasks; 46 without
