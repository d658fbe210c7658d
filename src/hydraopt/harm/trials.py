"""Trials: passes over all tasks at given own prices, each task's harm measured at what came out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from hydraopt.bundle.harm import Harm, HarmPoint, thinned
from hydraopt.files.aside import sizes_of
from hydraopt.harm.curves import HarmCurve, TrialPoint
from hydraopt.linalg.shapes import Array
from hydraopt.merging.draft import Draft, UnreadableError
from hydraopt.merging.finish import measure_tasks
from hydraopt.merging.look import HarmJudge, HarmSolution, MeasuredHarm, TaskTrial
from hydraopt.merging.outcome import Job
from hydraopt.merging.passes import Passes
from hydraopt.merging.weights import Weights
from hydraopt.progress import Progress

__all__ = ["Counted", "Rounds", "Trials", "with_core"]

_LEAST_SHARE: Final = 0.05
"""Minimum ratio of the share of changed answers to the root of KL.
It is the ratio of dates in words (docs/log.md)."""
_HALF: Final = 0.5
"""Largest share of changed answers from which a trial's rate is derived."""
_NEARLY: Final = 0.98
"""Upper bound on a share, because its logarithm is taken."""


@dataclass
class Rounds:
    """Rounds of a search, of which there are ``most`` or fewer.

    known: whether all ``most`` rounds take place. before: rounds that are done.
    """

    progress: Progress
    most: int
    known: bool
    before: int = 0

    def report(self, stage: str, done: int, total: int) -> None:
        """Report a stage of the present round as a part of the whole. A Progress.

        The count is of whole rounds, so that the time left is told from rounds with everything in
        them: nothing before the first is done, and never of a pass alone.
        """
        self._say(min(self.before + 1, self.most), f"{stage} {done} of {total}")

    def end_round(self) -> None:
        """Count the present round as done, and report it."""
        self.before += 1
        self._say(min(self.before, self.most), "done")

    def _say(self, here: int, part: str) -> None:
        rounds = f"{'' if self.known else 'at most '}{self.most}"
        stage = f"measuring harm, round {here} of {rounds}, {part}"
        self.progress(stage, min(self.before, self.most), self.most)


@dataclass(frozen=True)
class Counted:
    """Kind of harm that counts.

    what: "answers" counts answers that change; "lost" weights each of them by how sure the original
        is of it; "nats" is KL per answer.
    errors: number of standard errors added, as a margin for other prompts.

    A limit is on answers or nats; a size is shared out by lost answers, because an answer that the
    original may as well have given otherwise is no loss (docs/log.md).

    Answers change about as the root of KL, and all of them at most: a share 1 - exp(-c sqrt(KL)),
    with a separate c for each task. The share predicted from KL counts if it is larger: of a few
    answers none may be near to changing, and before a cliff KL rises first (docs/log.md). For a
    limit, c is measured on the task's trials, whose coarse ones change many answers, and has its
    own standard error, as KL has; otherwise c is the lowest value measured on any task.
    """

    what: Literal["answers", "lost", "nats"]
    errors: float = 0.0

    @property
    def shares(self) -> bool:
        """True if the harm is a share of the answers."""
        return self.what != "nats"

    def of(self, judged: MeasuredHarm, others: Sequence[Harm] = ()) -> float:
        """Return the harm that counts. others: harm in other trials of the same task."""
        harm = judged.harm
        if self.what == "nats":
            return harm.kl + self.errors * judged.kl_error
        told = judged.lost if self.what == "lost" else harm.likely
        told += self.errors * judged.likely_error
        root = math.sqrt(harm.kl + self.errors * judged.kl_error)
        return min(max(told, -math.expm1(-self._rate(harm, others) * root)), 1.0)

    def _rate(self, harm: Harm, others: Sequence[Harm]) -> float:
        """Return the rate c of a task.

        KL continues to rise where nearly all answers change. The rate therefore uses the trials in
        which half of the answers stay, or without any the trial with the fewest changes.
        """
        if self.what == "lost":
            return _LEAST_SHARE
        seen = [(harm.likely, harm.kl), *((x.likely, x.kl) for x in others)]
        some = [x for x in seen if x[0] <= _HALF] or [min(seen)]
        roots = sum(math.sqrt(kl) for _, kl in some)
        if roots == 0:
            return _LEAST_SHARE
        rate = sum(-math.log1p(-min(likely, _NEARLY)) for likely, _ in some) / roots
        # All trials are of the same answers: the coarsest says how many the rate is told by.
        changes = harm.answers * max(likely for likely, _ in some)
        return max(rate * (1 + self.errors / math.sqrt(max(changes, 1.0))), _LEAST_SHARE)


def with_core(own: Sequence[int], shared: int) -> Array:
    """Return the bytes of streams, (streams,), each with its share of the shared core by size."""
    sizes = np.array(own, np.float64)
    together: Array = sizes * (1 + shared / max(sizes.sum(), 1.0))
    return together


@dataclass
class Trials:
    """Passes of a job and their measurements, by content.

    weights: weights at which an error counts the same, relative to its task, in all tasks: a
        content's own price is the price at these weights.
    plain: own prices, (contents,), that stand for one price without prompts, up to a factor.
    useful: by task, bytes beyond which more are of no use, including its share of the shared core.
        A task that is left out has a use for any number.
    keeps: whether there is room for the curves.
    rounds: progress of all rounds.
    points: points of each round.
    seen: measurements, by task and look.
    answers: number of answers measured, (contents,).
    bare: loss of each content with the base model alone, counted as that of the points.
    looks: number of rounds so far.
    tries_from: first round whose prices were chosen from earlier ones; None while all are trials.
    """

    job: Job
    passes: Passes
    weights: Weights
    plain: Array
    judge: HarmJudge
    counted: Counted
    rounds: Rounds
    useful: Mapping[str, float] = field(default_factory=dict)
    keeps: bool = True
    points: dict[int, list[TrialPoint]] = field(default_factory=dict)
    seen: dict[str, dict[int, TaskTrial]] = field(default_factory=dict)
    answers: Array = field(init=False)
    bare: dict[int, float] = field(default_factory=dict)
    count: int = 0
    looks: int = 0
    tries_from: int | None = None
    _judged: dict[str, dict[int, MeasuredHarm]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.answers = np.zeros(self.contents)

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

    def look_at_base(self) -> None:
        """Measure what each content loses without its adapter, which bounds any plan."""
        asked = self._asked()
        for done, (name, content) in enumerate(asked, 1):
            lost = self.counted.of(self.judge.measure(name, dict, 1.0))
            self.bare[content] = max(lost, self.bare.get(content, 0.0))
            self.rounds.report("base model, task", done, len(asked))

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
        """Return the task of a content to which the last look showed the most harm."""
        names = [name for name, mine in self._asked() if mine == content]
        return max(names, key=lambda name: self.seen[name][self.looks - 1].harm)

    @property
    def most(self) -> Array | None:
        """Maximum loss of each content, (contents,); None if harm is not a share of answers."""
        if not self.counted.shares:
            return None
        return np.array([self.bare.get(i, 1.0) for i in range(self.contents)])

    def weighed(self, prices: Array) -> tuple[float, Weights]:
        """Return the price and the weights that give each content its own price, (contents,)."""
        price = float(np.exp(np.log(prices).mean()))
        by_task = self.weights.by_task * (price / prices)
        return price, dataclasses.replace(self.weights, by_task=by_task)

    def run(self, prices: Array, measured: Collection[int]) -> tuple[Draft, list[TrialPoint]]:
        """Run a pass at these own prices, (contents,), and measure some contents.

        measured: contents whose harm is measured.

        Returns the draft, which readers may refuse, and the points of all contents.
        """
        self.count += 1
        price, weights = self.weighed(prices)
        try:
            draft = self.passes.run(price, weights.whole, weights.counting, f"pass {self.count}")
        except UnreadableError as error:
            draft = error.draft
        return draft, self.look(draft, prices, measured)

    def look(self, draft: Draft, prices: Array, measured: Collection[int]) -> list[TrialPoint]:
        """Measure a draft that was made at these own prices, and return its points, (contents,)."""
        judged = measure_tasks(
            draft, self.job, self.judge, measured, self.rounds.report, stage="task"
        )
        self.looks += 1
        self.rounds.end_round()
        sizes = with_core(sizes_of(draft.streams), len(draft.shared))
        for content, error in enumerate(draft.relative_errors()):
            point = TrialPoint(float(prices[content]), float(sizes[content]), float(error), None)
            self.points.setdefault(content, []).append(point)
        names: dict[int, list[str]] = {}
        for name, content in self._asked():
            if name in judged:
                names.setdefault(content, []).append(name)
                self._judged.setdefault(name, {})[self.looks - 1] = judged[name]
        for content, mine in names.items():
            self.answers[content] = min(judged[name].harm.answers for name in mine)
            self._recount(content, mine)
        return self.points_of(self.looks - 1)

    def points_of(self, look: int) -> list[TrialPoint]:
        """Return the points of one look, (contents,), recounted with all later measurements."""
        return [self.points[content][look] for content in range(self.contents)]

    def _recount(self, content: int, names: Sequence[str]) -> None:
        """Count all measurements of a content again: each informs the rates of its tasks.

        The worst of its tasks counts.
        """
        points, harms = self.points[content], dict[int, float]()
        for name in names:
            known, seen = self._judged[name], dict[int, TaskTrial]()
            for look, judged in known.items():
                others = [x.harm for other, x in known.items() if other != look]
                count = self.counted.of(judged, others)
                harms[look] = max(count, harms.get(look, 0.0))
                size, error, harm = points[look].size, points[look].error, judged.harm
                seen[look] = TaskTrial(size, error, harm.likely, harm.kl, judged.lost, count)
            self.seen[name] = seen
        self.points[content] = [
            dataclasses.replace(point, harm=harms.get(look)) for look, point in enumerate(points)
        ]

    def size_near(self, content: int, price: float) -> float:
        """Return the bytes of a content in the trial whose own price is nearest."""
        near = min(self.points[content], key=lambda x: abs(math.log(x.price / price)))
        return near.size

    def curves(self) -> dict[int, HarmCurve]:
        """Return the curves of measured contents, corrected by each later try."""
        useful, curves = self.useful_bytes(), dict[int, HarmCurve]()
        first = self.looks if self.tries_from is None else self.tries_from
        for content, points in sorted(self.points.items()):
            if any(point.harm is not None for point in points[:first]):
                curve = HarmCurve(tuple(points[:first]), useful.get(content, math.inf))
                for point in points[first:]:
                    curve = curve.corrected(point)
                curves[content] = curve
        return curves

    def useful_bytes(self) -> dict[int, float]:
        """Return ``useful`` by content, for contents that have such a bound."""
        named = (x for x in self.job.pieces.tasks if x.name in self.useful)
        return {x.content: self.useful[x.name] for x in named if x.content is not None}

    def kept_curves(self, chosen: int) -> dict[str, tuple[HarmPoint, ...]]:
        """Return the curves as a manifest keeps them, by task; none if there is no room.

        chosen: round of the draft that the bundle will hold. Its points are kept in any case.
        """
        if not self.keeps:
            return {}
        curves = {}
        for name, seen in self.seen.items():
            looks = sorted(seen, key=lambda look: look != chosen)
            rows = (seen[look] for look in looks)
            curves[name] = thinned(HarmPoint(x.error, x.likely, x.kl) for x in rows)
        return curves

    def solution(self, draft: Draft, chosen: int) -> HarmSolution:
        """Return the solution. draft: as chosen. chosen: the round that it was measured in."""
        return HarmSolution(
            draft,
            self.count,
            self.counted.what,
            self.kept_curves(chosen),
            self.keeps,
            {
                name: tuple(sorted(seen.values(), key=lambda trial: -trial.size))
                for name, seen in self.seen.items()
            },
            {content: points[chosen].size for content, points in self.points.items()},
            {name: seen[chosen].harm for name, seen in self.seen.items() if chosen in seen},
        )
