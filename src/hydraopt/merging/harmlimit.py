"""Search for the smallest draft with which every task keeps a limit on harm.

Each task has a price of a bit of its own. A round is one coding pass and a measurement of every
task; a secant through a task's rounds, of log harm over log price, gives its next price. Tasks
share bases, so each round rounds the numbers of every task anew, and its harm changes a little even
at the same price. Later rounds therefore only lower prices, to ones that kept the limit before, and
go on until all tasks keep the limit in one round.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from hydraopt.bundle import Harm, TaskEntry
from hydraopt.codec import (
    Array,
    Basis,
    ChunkReader,
    DenseRecord,
    Factors,
    PartsRecord,
    matrix_shape,
    read_basis,
    read_common,
    read_dense,
    read_record,
    sizes_of,
)
from hydraopt.errors import BudgetError, UsageError, explain
from hydraopt.merging.alignment import MergeSet
from hydraopt.merging.job import Draft, Job, Solution, TaskTrial, UnreadableError
from hydraopt.merging.limits import HarmLimit, MeanError
from hydraopt.merging.options import DEFAULT_HARM, HarmJudge, MeasuredHarm, MergeOptions
from hydraopt.merging.passes import Passes
from hydraopt.merging.search import ERROR_SLOPE, Secant
from hydraopt.merging.solving import passes_of, price_of, weights_for
from hydraopt.merging.weights import Weights
from hydraopt.notes import listed
from hydraopt.progress import Progress, silent


@dataclass(frozen=True)
class DecodedDraft:
    """A draft's streams, decoded when asked for."""

    draft: Draft
    pieces: MergeSet

    @functools.cached_property
    def bases(self) -> list[tuple[Basis | None, Basis | None]]:
        """Shared bases of all modules, left and right."""
        return self._shared[0]

    @functools.cached_property
    def _shared(self) -> tuple[list[tuple[Basis | None, Basis | None]], list[bool]]:
        """Bases of all modules, and for each tensor whether the tasks share a part of it."""
        modules, tensors = self.pieces.modules, self.pieces.tensors
        core = self.pieces.core
        if core is not None:
            return list(core.bases), [common is not None for common in core.commons]
        if not self.draft.shared:
            return [(None, None)] * len(modules), [False] * len(tensors)
        reader = ChunkReader(self.draft.shared, len(modules) + len(tensors))
        bases, commons = [], []
        for x in modules:
            bases.append((read_basis(reader, x.m, x.m), read_basis(reader, x.n, x.n)))
            reader.end_record()
        for tensor in tensors:
            commons.append(read_common(reader, matrix_shape(tensor.shape)))
            reader.end_record()
        return bases, [common is not None for common in commons]

    def read(self, task: TaskEntry) -> tuple[dict[int, PartsRecord | None], list[DenseRecord]]:
        """Return a task's records by module index, in coding order, and of its tensors."""
        assert task.content is not None
        count = len(task.modules) + len(task.tensors)
        reader = ChunkReader(self.draft.streams[task.content], count)
        records = {}
        for index in task.modules:
            module = self.pieces.modules[index]
            records[index] = read_record(reader, module.m, module.n, self.bases[index], task.start)
            reader.end_record()
        tensors = []
        for i in task.tensors:
            entry, common = self.pieces.tensors[i], self._shared[1][i]
            based = entry.base is not None
            tensors.append(read_dense(reader, matrix_shape(entry.shape), common, based))
            reader.end_record()
        return records, tensors

    def factors(self, task: TaskEntry) -> dict[str, Factors]:
        """Return B (m, k) with the scale inside and A (k, n) of a task's modules, by path.

        Modules of which nothing is kept are left out.
        """
        paths = {index: self.pieces.modules[index].path for index in task.modules}
        records = self.read(task)[0]
        return {paths[i]: record.factors for i, record in records.items() if record is not None}


def measure_tasks(
    draft: Draft,
    job: Job,
    judge: HarmJudge,
    progress: Progress,
    refitted: Collection[str] = (),
    stage: str = "measuring harm",
) -> dict[str, MeasuredHarm]:
    """Measure the harm of a draft to the coded tasks that have prompts.

    refitted: tasks to measure only on the prompts that no refit learned from.
    """
    decoded, judged = DecodedDraft(draft, job.pieces), {}
    names = judge.tasks()
    tasks = [x for x in job.pieces.tasks if x.name in names and x.content is not None]
    for done, task in enumerate(tasks, 1):
        factors = functools.partial(decoded.factors, task)
        judged[task.name] = judge.measure(task.name, factors, apart=task.name in refitted)
        progress(stage, done, len(tasks))
    return judged


_FIRST_ERROR: Final = 0.5
"""Mean error of the first round."""
_ROUNDS: Final = 10
"""Number of rounds after which the search ends with the first that keeps the limit."""
_MOST_ROUNDS: Final = 30
"""Number of rounds after which a limit that none kept is refused."""
_RAISES: Final = 6
"""Number of rounds after which no price is raised."""
_LARGEST_STEP: Final = 50.0
"""Largest factor between the prices of a task in two rounds."""
_LEAST_FALL: Final = 1 / 2
"""Largest ratio of the next price to the present one for a task that never kept the limit."""
_AIM, _MET = 0.9, 0.75
"""Shares of a limit: harm that prices aim at, and harm from which a task's price is not raised."""
_LEAST_SAVING: Final = 0.95
"""Largest ratio of a task's bytes after its price was raised to those before; else it stays."""
_LEAST_RATE: Final = 0.05
"""Minimum ratio of the share of changed answers to the root of KL.
It is the ratio of dates in words (docs/log.md)."""
_SHAPE: Final = 2.0
"""Number of changed answers that the share predicted from KL is worth."""
_HALF: Final = 0.5
"""Largest share of changed answers from which a trial's rate is derived."""
_MOST_SHARE: Final = 0.98
"""Upper bound on a share, because the logarithm of the rest is taken."""


@dataclass(frozen=True)
class _Round:
    """Coding pass at the prices of contents, (contents,), and the measured harm by task."""

    draft: Draft
    prices: Array
    judged: Mapping[str, MeasuredHarm]


def solve_harm(job: Job, limit: HarmLimit, options: MergeOptions) -> Solution:
    """Search for the smallest draft with which every task keeps the limit.

    options: without fair and importance; the look has a judge with prompts for every coded task.

    Raises UsageError for tasks whose single answer says nothing of others, and BudgetError for a
    limit that no round keeps.
    """
    search = _Search(job, limit, options.look.check_harm(), options.progress or silent)
    with passes_of(job, dataclasses.replace(options, progress=search.report)) as passes:
        weights = weights_for(passes, job, options)
        weights = dataclasses.replace(weights, by_task=_relative(weights))
        prices = np.full(job.pieces.contents, price_of(MeanError(_FIRST_ERROR), job, weights))
        for count in range(1, _MOST_ROUNDS + 1):
            search.run(passes, weights, prices)
            if count >= _ROUNDS and search.kept():
                break
            wanted = search.next_prices(raises=count < _RAISES)
            if np.array_equal(wanted, prices):
                break
            prices = wanted
    return search.solution()


def _relative(weights: Weights) -> Array:
    """Return weights by task at which an error counts relative to its task, at the same scale."""
    totals = np.where(weights.counting.totals > 0, weights.counting.totals, 1.0)
    scale = weights.by_task.sum() / (1 / totals).sum()
    relative: Array = scale / totals
    return relative


class _Search:
    """Rounds of a search, and the harm of each task in them."""

    def __init__(self, job: Job, limit: HarmLimit, judge: HarmJudge, progress: Progress) -> None:
        self._job, self._limit, self._judge, self._progress = job, limit, judge, progress
        self._rounds: list[_Round] = []
        self._contents = {x.name: x.content for x in job.pieces.tasks if x.content is not None}

    def report(self, stage: str, done: int, total: int) -> None:
        """Report a stage of the present round as a part of the whole; this is a Progress."""
        count = len(self._rounds)
        most = _ROUNDS if count < _ROUNDS else _MOST_ROUNDS
        what = f"measuring harm, round {count + 1} of at most {most}"
        self._progress(f"{what}, {stage} {done} of {total}", min(count, _ROUNDS - 1), _ROUNDS)

    def run(self, passes: Passes, weights: Weights, prices: Array) -> None:
        """Run a round at these prices, (contents,). Readers may refuse its draft."""
        price = float(np.exp(np.log(prices).mean()))
        priced = dataclasses.replace(weights, by_task=weights.by_task * (price / prices))
        try:
            draft = passes.run(price, priced.whole, priced.counting, "module")
        except UnreadableError as error:
            draft = error.draft
        judged = measure_tasks(draft, self._job, self._judge, self.report, stage="task")
        self._rounds.append(_Round(draft, prices, judged))
        if len(self._rounds) == 1 and self._limit.shares:
            _check_several(judged, self._limit.limit)

    def _counted(self, name: str) -> list[float]:
        """Return the harm of a task in each round; each round informs the rates of the others."""
        judged = [x.judged[name] for x in self._rounds]
        harms = [x.harm for x in judged]
        return [
            counted_harm(self._limit, x, [*harms[:i], *harms[i + 1 :]])
            for i, x in enumerate(judged)
        ]

    def _worst(self) -> Array:
        """Return the harm of the worst task of each content, (rounds, contents)."""
        worst = np.zeros((len(self._rounds), self._job.pieces.contents))
        for name, content in self._contents.items():
            worst[:, content] = np.maximum(worst[:, content], self._counted(name))
        return worst

    def next_prices(self, raises: bool) -> Array:
        """Return the prices of the next round, (contents,); the present ones at the end.

        raises: whether prices of tasks far within the limit are raised.
        """
        harms = self._worst()
        sizes = np.stack([bytes_with_core(x.draft) for x in self._rounds])
        prices = np.stack([x.prices for x in self._rounds])
        wanted = [
            self._next_price(prices[:, i], harms[:, i], sizes[:, i], raises)
            for i in range(prices.shape[1])
        ]
        return np.array(wanted)

    def _next_price(self, prices: Array, harms: Array, sizes: Array, raises: bool) -> float:
        """Return the next price of a content. prices, harms, sizes (rounds,): of its rounds."""
        limit, price = self._limit.limit, float(prices[-1])
        readable = [x.draft.readable for x in self._rounds]
        if readable[-1] and harms[-1] <= limit:
            raised = len(prices) > 1 and prices[-2] < price
            in_vain = raised and sizes[-1] > _LEAST_SAVING * sizes[-2]
            if not raises or in_vain or harms[-1] >= _MET * limit:
                return price
        elif not raises:
            within = np.array(readable) & (harms <= limit) & (prices < price)
            if within.any():
                return float(prices[within].max())
        secant = Secant(_AIM * limit, ERROR_SLOPE * (1 if self._limit.shares else 2))
        for before, harm, fine in zip(prices, harms, readable, strict=True):
            if fine:
                secant.add(float(before), float(harm), True)
            else:
                secant.refuse(float(before))
        wanted = float(np.clip(secant.next_price(), price / _LARGEST_STEP, price * _LARGEST_STEP))
        if readable[-1] and harms[-1] <= limit:
            return max(wanted, price)
        return wanted if raises and wanted < price else min(wanted, _LEAST_FALL * price)

    def kept(self) -> list[int]:
        """Return the rounds in which all tasks keep the limit."""
        worst = self._worst().max(axis=1, initial=0.0)
        return [
            i
            for i, x in enumerate(self._rounds)
            if worst[i] <= self._limit.limit and x.draft.readable
        ]

    def solution(self) -> Solution:
        """Return the smallest draft that keeps the limit. Raises BudgetError if there is none."""
        kept = self.kept()
        if not kept:
            if not self._rounds[-1].draft.readable:
                raise UnreadableError(self._rounds[-1].draft)
            raise self._unmet()
        number = min(kept, key=lambda i: self._rounds[i].draft.coded_bytes)
        best = self._rounds[number]
        trials = {name: self._trials(name) for name in self._contents}
        return Solution(
            best.draft,
            len(self._rounds),
            {name: x.harm for name, x in best.judged.items()},
            {name: mine[number] for name, mine in trials.items()},
            {
                name: tuple(sorted(mine, key=lambda trial: -trial.size))
                for name, mine in trials.items()
            },
        )

    def _trials(self, name: str) -> list[TaskTrial]:
        content, counts, trials = self._contents[name], self._counted(name), []
        for made, count in zip(self._rounds, counts, strict=True):
            harm, errors = made.judged[name].harm, made.draft.relative_errors()
            size = float(bytes_with_core(made.draft)[content])
            trials.append(TaskTrial(size, float(errors[content]), harm.likely, harm.kl, count))
        return trials

    def _unmet(self) -> BudgetError:
        """Return the error that names the task which is furthest beyond the limit."""
        counts = {name: self._counted(name)[-1] for name in self._contents}
        worst = max(counts, key=counts.__getitem__)
        last = self._rounds[-1]
        error = last.draft.relative_errors()[self._contents[worst]]
        do = "a larger limit, or --lossless"
        if last.judged[worst].harm.answers < DEFAULT_HARM.prompts:  # more would not be judged
            do = f"more prompts of this task, {do}"
        reached = self._limit.describe(counts[worst])
        return BudgetError(
            explain(
                f"the limit on harm cannot be kept: {self._limit.text}",
                adapter=worst,
                got=f"{reached}, one standard error added, at a relative error of {error:.3g}",
                do=f"Give {do}",
            )
        )


def bytes_with_core(draft: Draft) -> Array:
    """Return the bytes of a draft's contents, (contents,), each with its share of the core."""
    sizes = np.array(sizes_of(draft.streams), np.float64)
    together: Array = sizes * (1 + len(draft.shared) / max(sizes.sum(), 1.0))
    return together


def counted_harm(limit: HarmLimit, judged: MeasuredHarm, others: Sequence[Harm] = ()) -> float:
    """Return the harm of a task as it is compared with the limit.

    It is the KL per answer, or the share of answers that change, plus one standard error as a
    margin for other prompts.

    others: harm in other rounds of the same task.

    Answers change about as the root of KL, and all of them at most: a share p = 1 - exp(-c
    sqrt(KL)), with a separate c for each task, which is measured in all its rounds. A single round
    is coarse: an answer near a tie may or may not change, and is 1.6 % of 64. So p is the mean of a
    Gamma prior of shape _SHAPE, which the n answers of this round update; the result is the mean of
    the posterior plus its standard deviation (Gelman et al., Bayesian Data Analysis, 3rd edition,
    section 2.6).
    """
    harm, nats = judged.harm, judged.harm.kl + judged.kl_error
    if not limit.shares:
        return nats
    predicted = -math.expm1(-_rate(harm, others) * math.sqrt(nats))
    shape = _SHAPE + harm.answers * harm.likely
    share = predicted * (shape + math.sqrt(shape)) / (_SHAPE + harm.answers * predicted)
    return min(share, 1.0)


def _rate(harm: Harm, others: Sequence[Harm]) -> float:
    """Return the rate c of a task.

    KL continues to rise where nearly all answers change. The rate therefore uses the trials in
    which half of the answers stay, or without any the trial with the fewest changes.
    """
    trials = [(x.likely, x.kl) for x in (harm, *others)]
    used = [x for x in trials if x[0] <= _HALF] or [min(trials)]
    roots = sum(math.sqrt(kl) for _, kl in used)
    changes = sum(-math.log1p(-min(likely, _MOST_SHARE)) for likely, _ in used)
    return max(changes / roots if roots else 0.0, _LEAST_RATE)


def _check_several(judged: Mapping[str, MeasuredHarm], limit: float) -> None:
    """Raise UsageError for tasks with a single answer, which tells nothing of others."""
    names = sorted(name for name, x in judged.items() if x.harm.answers == 1)
    if limit < _HALF and names:
        raise UsageError(
            explain(
                "a limit on harm needs several prompts for every task",
                got=f"one prompt of {listed(names)}, which tells nothing of others",
                do="Add different ones, 64 or more, or give --size or --error instead",
            )
        )
