"""Trials: coding passes at given own prices, and the harm of each task after them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np

from hydraopt.bundle.harm import Harm, HarmPoint, thinned
from hydraopt.files.aside import sizes_of
from hydraopt.harm.curves import HarmCurve
from hydraopt.linalg.shapes import Array
from hydraopt.merging.draft import Draft, UnreadableError
from hydraopt.merging.finish import measure_tasks
from hydraopt.merging.look import HarmJudge, HarmSolution, MeasuredHarm, TaskTrial
from hydraopt.merging.outcome import Job
from hydraopt.merging.passes import Passes
from hydraopt.merging.weights import Weights
from hydraopt.progress import Progress, silent

__all__ = ["Trials", "counted_harm", "with_core"]

_LEAST_SHARE: Final = 0.05
"""Minimum ratio of the share of changed answers to the root of KL.
It is the ratio of dates in words (docs/log.md)."""
_HALF: Final = 0.5
"""Largest share of changed answers from which a trial's rate is derived."""
_NEARLY: Final = 0.98
"""Upper bound on a share, because its logarithm is taken."""


def counted_harm(kind: str, judged: MeasuredHarm, others: Sequence[Harm] = ()) -> float:
    """Return the harm of a trial as the search counts it.

    kind: "lost", for a size: answers that change, each weighted by how sure the original is of it,
        because an answer that the original may as well have given otherwise is no loss. "answers"
        or "nats", for a limit: answers that change, or KL per answer, plus one standard error as a
        margin for other prompts: four of five other samples show less.
    others: harm in other trials of the same task.

    Answers change about as the root of KL, and all of them at most: a share 1 - exp(-c sqrt(KL)),
    with a separate c for each task. The share predicted from KL counts if it is larger: of a few
    answers none may be near to changing, and before a cliff KL rises first (docs/log.md). For a
    limit, c is measured on the task's trials, whose coarse ones change many answers, and has its
    own standard error, as KL has; otherwise c is the lowest value measured on any task.
    """
    harm, errors = judged.harm, 0.0 if kind == "lost" else 1.0
    nats = harm.kl + errors * judged.kl_error
    if kind == "nats":
        return nats
    share = judged.lost if kind == "lost" else harm.likely + judged.likely_error
    rate = _LEAST_SHARE if kind == "lost" else _rate(harm, others)
    return min(max(share, -math.expm1(-rate * math.sqrt(nats))), 1.0)


def _rate(harm: Harm, others: Sequence[Harm]) -> float:
    """Return the rate c of a task, plus one standard error.

    KL continues to rise where nearly all answers change. The rate therefore uses the trials in
    which half of the answers stay, or without any the trial with the fewest changes.
    """
    seen = [(harm.likely, harm.kl), *((x.likely, x.kl) for x in others)]
    some = [x for x in seen if x[0] <= _HALF] or [min(seen)]
    roots = sum(math.sqrt(kl) for _, kl in some)
    if roots == 0:
        return _LEAST_SHARE
    rate = sum(-math.log1p(-min(likely, _NEARLY)) for likely, _ in some) / roots
    # All trials are of the same answers; the coarsest one determines the precision of the rate.
    changes = harm.answers * max(likely for likely, _ in some)
    return max(rate * (1 + 1 / math.sqrt(max(changes, 1.0))), _LEAST_SHARE)


def with_core(own: Sequence[int], shared: int) -> Array:
    """Return the bytes of streams, (streams,), each with its share of the shared core by size."""
    sizes = np.array(own, np.float64)
    together: Array = sizes * (1 + shared / max(sizes.sum(), 1.0))
    return together


class Trials:
    """Coding passes over all tasks at given own prices, and the harm measured after each.

    A round is one pass, or the search for a size, followed by a measurement; a reader of the
    arrays finds its index in them.

    passes: coding passes, set by the search that opens them.
    weights: weights at which an error counts the same, relative to its task, in all tasks: a
        content's own price is the price at these weights.
    plain (contents,): own prices that stand for one price without prompts, up to a factor.
    keeps: whether the bundle has room for the curves.
    prices, sizes, errors, harms: by round, own prices, bytes with the share of the shared core,
        relative errors and counted harms (NaN if not measured), (contents,) each.
    answers (contents,): number of answers measured.
    bare: loss of each content with the base model alone, counted as in ``harms``.
    pass_count: number of coding passes.
    first_choice: first round whose prices were chosen from earlier ones; None while all are trials.
    """

    passes: Passes
    weights: Weights
    plain: Array

    def __init__(
        self,
        job: Job,
        judge: HarmJudge,
        counted: str,
        rounds: int,
        *,
        exact: bool,
        useful: Mapping[str, float] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Initialise without rounds.

        counted: kind of harm, as of :func:`counted_harm`.
        rounds: maximum number of rounds, for progress. exact: whether all of them take place.
        useful: by task, bytes beyond which more are of no use, including its share of the shared
            core. A task that is left out has a use for any number.
        """
        self.job, self.judge, self.counted = job, judge, counted
        self.most_rounds, self._exact = rounds, exact
        self._useful, self._progress = useful or {}, progress or silent
        self.keeps, self.pass_count = True, 0
        self.first_choice: int | None = None
        self.prices, self.sizes = list[Array](), list[Array]()
        self.errors, self.harms = list[Array](), list[Array]()
        self.answers = np.zeros(self.contents)
        self.bare: dict[int, float] = {}
        self._judged: dict[str, dict[int, MeasuredHarm]] = {}
        self._counts: dict[str, dict[int, float]] = {}

    @property
    def rounds(self) -> int:
        """Number of rounds so far."""
        return len(self.harms)

    @property
    def contents(self) -> int:
        """Number of coded streams."""
        return self.job.pieces.contents

    def prompted(self) -> set[int]:
        """Return the contents of tasks with prompts."""
        return {content for _, content in self._asked()}

    def _asked(self) -> list[tuple[str, int]]:
        """Return (name, content) of the tasks with prompts."""
        names = self.judge.tasks()
        tasks = (x for x in self.job.pieces.tasks if x.name in names)
        return [(task.name, task.content) for task in tasks if task.content is not None]

    def report(self, stage: str, done: int, total: int) -> None:
        """Report a stage of the present round as a part of the whole; this is a Progress.

        The count is of whole rounds, so that the time left is estimated from rounds with everything
        in them: nothing before the first is done, and never from a pass alone.
        """
        self._report_round(min(self.rounds + 1, self.most_rounds), f"{stage} {done} of {total}")

    def _report_round(self, number: int, part: str) -> None:
        most = self.most_rounds
        rounds = f"{'' if self._exact else 'at most '}{most}"
        stage = f"measuring harm, round {number} of {rounds}, {part}"
        self._progress(stage, min(self.rounds, most), most)

    def measure_base(self) -> None:
        """Measure what each content loses without its adapter, which bounds any plan."""
        asked = self._asked()
        for done, (name, content) in enumerate(asked, 1):
            lost = counted_harm(self.counted, self.judge.measure(name, dict, 1.0))
            self.bare[content] = max(lost, self.bare.get(content, 0.0))
            self.report("base model, task", done, len(asked))

    def of_one_answer(self, limit: float) -> list[str]:
        """Return the tasks measured on a single answer, if ``limit`` is below a half.

        Only tasks whose single answer is likely to stay, but within one standard error of a half:
        it predicts so little about other answers that half of them may change.
        """
        rows = ((name, x) for name, known in self._judged.items() for x in known.values())
        open_to_half = {
            name
            for name, x in rows
            if x.harm.answers == 1 and x.harm.likely < _HALF <= x.harm.likely + x.likely_error
        }
        return sorted(open_to_half) if limit < _HALF else []

    def worst_task(self, content: int) -> str:
        """Return the task of a content with the most harm in the last round."""
        names = [name for name, mine in self._asked() if mine == content]
        return max(names, key=lambda name: self._counts[name][self.rounds - 1])

    @property
    def most(self) -> Array | None:
        """Maximum loss of each content, (contents,); None if harm is not a share of answers."""
        if self.counted == "nats":
            return None
        return np.array([self.bare.get(i, 1.0) for i in range(self.contents)])

    def weighed(self, prices: Array) -> tuple[float, Weights]:
        """Return the price and the weights that give each content its own price, (contents,)."""
        price = float(np.exp(np.log(prices).mean()))
        by_task = self.weights.by_task * (price / prices)
        return price, dataclasses.replace(self.weights, by_task=by_task)

    def run(self, prices: Array, measured: Collection[int]) -> Draft:
        """Run a round at these own prices, (contents,); return its draft.

        measured: contents whose harm is measured. Readers may refuse the draft.
        """
        self.pass_count += 1
        price, weights = self.weighed(prices)
        try:
            draft = self.passes.run(
                price, weights.whole, weights.counting, f"pass {self.pass_count}"
            )
        except UnreadableError as error:
            draft = error.draft
        self.measure(draft, prices, measured)
        return draft

    def measure(self, draft: Draft, prices: Array, measured: Collection[int]) -> None:
        """Add the round of a draft that was made at these own prices."""
        judged = measure_tasks(draft, self.job, self.judge, measured, self.report, stage="task")
        self.prices.append(np.array(prices, np.float64))
        self.sizes.append(with_core(sizes_of(draft.streams), len(draft.shared)))
        self.errors.append(np.array(draft.relative_errors(), np.float64))
        self.harms.append(np.full(self.contents, np.nan))
        self._report_round(min(self.rounds, self.most_rounds), "done")
        names: dict[int, list[str]] = {}
        for name, content in self._asked():
            if name in judged:
                names.setdefault(content, []).append(name)
                self._judged.setdefault(name, {})[self.rounds - 1] = judged[name]
        for content, mine in names.items():
            self.answers[content] = min(judged[name].harm.answers for name in mine)
            self._recount(content, mine)

    def _recount(self, content: int, names: Sequence[str]) -> None:
        """Count all measurements of a content again: each informs the rates of its tasks.

        The worst of its tasks counts.
        """
        worst: dict[int, float] = {}
        for name in names:
            known = self._judged[name]
            for number, judged in known.items():
                others = [x.harm for other, x in known.items() if other != number]
                count = counted_harm(self.counted, judged, others)
                self._counts.setdefault(name, {})[number] = count
                worst[number] = max(count, worst.get(number, 0.0))
        for number, harm in worst.items():
            self.harms[number][content] = harm

    def size_near(self, content: int, price: float) -> float:
        """Return the bytes of a content in the round whose own price is nearest."""
        far = [abs(math.log(prices[content] / price)) for prices in self.prices]
        return float(self.sizes[int(np.argmin(far))][content])

    def curves(self) -> dict[int, HarmCurve]:
        """Return the curves of measured contents, corrected by each round after the trials."""
        useful, curves = self.useful_bytes(), dict[int, HarmCurve]()
        first = self.rounds if self.first_choice is None else self.first_choice
        for content in range(self.contents):
            prices, sizes, harms = (
                np.array([row[content] for row in rows])
                for rows in (self.prices, self.sizes, self.harms)
            )
            if np.isfinite(harms[:first]).any():
                bound = useful.get(content, math.inf)
                curve = HarmCurve(prices[:first], sizes[:first], harms[:first], bound)
                for number in range(first, self.rounds):
                    trial = prices[number], sizes[number], harms[number]
                    curve = curve.corrected(*map(float, trial))
                curves[content] = curve
        return curves

    def useful_bytes(self) -> dict[int, float]:
        """Return the useful bytes by content, for contents that have such a bound."""
        named = (x for x in self.job.pieces.tasks if x.name in self._useful)
        return {x.content: self._useful[x.name] for x in named if x.content is not None}

    def solution(self, draft: Draft, chosen: int) -> HarmSolution:
        """Return the solution. draft: as chosen. chosen: its round.

        The manifest keeps the curves if it has room, with the chosen round in any case.
        """
        trials = {
            name: {number: self._trial(name, content, number) for number in self._counts[name]}
            for name, content in self._asked()
            if name in self._counts
        }
        curves = {}
        for name, seen in trials.items() if self.keeps else ():
            rows = (seen[number] for number in sorted(seen, key=lambda number: number != chosen))
            curves[name] = thinned(HarmPoint(x.error, x.likely, x.kl) for x in rows)
        return HarmSolution(
            draft,
            self.pass_count,
            self.counted,
            curves,
            self.keeps,
            {
                name: tuple(sorted(seen.values(), key=lambda trial: -trial.size))
                for name, seen in trials.items()
            },
            dict(enumerate(self.sizes[chosen].tolist())),
            {name: seen[chosen].harm for name, seen in trials.items() if chosen in seen},
        )

    def _trial(self, name: str, content: int, number: int) -> TaskTrial:
        """Return the result of one round for one task."""
        size, error = (float(rows[number][content]) for rows in (self.sizes, self.errors))
        judged = self._judged[name][number]
        count = self._counts[name][number]
        return TaskTrial(size, error, judged.harm.likely, judged.harm.kl, judged.lost, count)
