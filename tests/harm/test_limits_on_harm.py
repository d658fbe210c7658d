"""A limit on harm: how it is looked for, and what is said of it on the way and at the end."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hydraopt import merge, read_adapters
from hydraopt.bundle.harm import Harm
from hydraopt.errors import UsageError
from hydraopt.merging.budget import HarmLimit
from hydraopt.merging.look import Look, MeasuredHarm
from hydraopt.merging.passes import Passes
from tests.harm.power_judge import SCALES, THREE_LAYERS, PowerJudge, planned
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


def test_progress_is_of_all_rounds(adapters, tmp_path: Path) -> None:
    """From the first pass on, what is done is a share of the whole, which never goes back."""
    said: list[tuple[str, int, int]] = []
    judge, told = PowerJudge(adapters, SCALES), lambda *told: said.append(told)
    merge(adapters, tmp_path / "x", look=Look(judge=judge), workers=1, progress=told, harm="5%")
    rounds = [(s, done, total) for s, done, total in said if "round" in s]
    shares = [done / total for _, done, total in rounds]
    assert shares == sorted(shares)
    assert (shares[0], 0.1 < shares[-1] <= 1) == (0, True)
    assert len({total for *_, total in rounds}) == 1
    # Passes and measurements both are parts of a round, each counted to its own end.
    ends = [stage.rsplit(" ", 3) for stage, *_ in rounds]
    assert len({part.rpartition(",")[2] for part, *_ in ends}) > 1


@pytest.mark.parametrize("make", [merge, planned])
def test_what_cannot_be_is_told_before_modules_are_looked_at(adapters, tmp_path, make) -> None:
    def look() -> None:
        pytest.fail("modules were looked at")

    judge, out = PowerJudge(adapters, {"easy": 0.1}), [tmp_path / "x"] if make is merge else []
    more = {"look": Look(judge, look)} if make is merge else {"judge": judge, "sensitivity": look}
    for facts, asked in (
        ({"got": "none of fair, hard"}, {}),
        ({"got": "'none'", "expected": "frobenius, bias-aware"}, {"measure": "none"}),
    ):
        with raises(UsageError, **facts):
            make(adapters, *out, harm="5%", **asked, **more)


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


def test_all_of_the_answers_are_told_in_words() -> None:
    limit = HarmLimit(0.01)
    assert [limit.describe(x) for x in (1.0, 0.99, 0.077)] == [
        "all of the answers",
        "99 % of the answers",
        "7.7 % of the answers",
    ]


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
