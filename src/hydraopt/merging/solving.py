"""Solve: the draft of a job that meets its budget, by passes over all modules."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from hydraopt.codec import Array, modes_of
from hydraopt.merging.job import Course, Draft, Job, Solution, UnreadableError
from hydraopt.merging.limits import Budget, MeanError, Size, WorstError
from hydraopt.merging.options import MergeOptions
from hydraopt.merging.passes import Passes, pool_for
from hydraopt.merging.pool import Closing
from hydraopt.merging.search import (
    ERROR_SLOPE,
    MOST_PASSES,
    Guide,
    Secant,
    Trial,
    coded_bits,
    search_error,
    search_size,
)
from hydraopt.merging.servant import Shards
from hydraopt.merging.weights import Weights, importances, sensed, weights_of
from hydraopt.merging.workers import Local

_NOISE: Final = 1.75
"""Noise of a number over that of a Gaussian source at the same price, about: coding is not all that
a price is asked for, and noise on some sides counts less (seen on all sets)."""
_KEPT_AIM, _KEPT_MET = 0.97, 0.92
"""Shares of an error that a task keeps: where to aim, and from where on it counts as kept."""
_ALIKE: Final = 1.05
"""The worst error over the mean one, below which errors count as alike."""


@dataclass(frozen=True)
class KeptError:
    """Error, above 0, that a task is to keep.

    It gets a price of its own if the common price gives less than ``least`` or more than ``most``.
    """

    error: float
    least: float
    most: float


def solve_budget(job: Job, budget: Budget, options: MergeOptions) -> Solution:
    """Search the draft that meets the budget, by passes at falling or rising prices.

    Raises UsageError for unknown tasks, BudgetError for a budget that cannot be met.
    """
    with passes_of(job, options) as passes:
        weights = weights_for(passes, job, options)
        return _search(passes, job, budget, weights, options.fair)


def solve_at(job: Job, price: float, options: MergeOptions) -> Draft:
    """Run one pass at a price of a bit, whatever its result."""
    with passes_of(job, options) as passes:
        weights = weights_for(passes, job, options)
        return passes.run(price, weights.whole, weights.counting)


def solve_kept(
    job: Job, price: float, options: MergeOptions, kept: Mapping[str, KeptError]
) -> Draft:
    """Run one pass at a price of a bit; more, if tasks need prices of their own for their errors.

    kept: by task. The strictest one counts of tasks that share a content. If the last price of a
        task does not keep its error, the highest price that did is used again, in a last pass whose
        error is not checked.
    """
    with passes_of(job, options) as passes:
        weights = weights_for(passes, job, options)
        draft = passes.run(price, weights.whole, weights.counting)
        errors, wanted = _errors(job, draft), _by_content(job, kept)
        own = {
            content: Secant(_KEPT_AIM * keep.error, ERROR_SLOPE)
            for content, keep in wanted.items()
            if not keep.least <= errors[content] <= keep.most
        }
        prices = np.ones(job.pieces.contents)  # in units of the common one
        met: dict[int, float] = {}  # the highest price that kept the error

        def note_met() -> None:
            for content in own:
                if errors[content] <= wanted[content].error:
                    met[content] = max(met.get(content, 0.0), float(prices[content]))

        numbers = itertools.count(2)

        def run() -> Draft:
            changed = dataclasses.replace(weights, by_task=weights.by_task / prices)
            return passes.run(price, changed.whole, changed.counting, f"pass {next(numbers)}")

        for _ in range(MOST_PASSES - 1):
            note_met()
            off = [x for x in own if not _KEPT_MET <= errors[x] / wanted[x].error <= 1]
            for content in off:
                own[content].add(prices[content], errors[content], True)
            off = [x for x in off if not (own[x].closed or own[x].stands_still)]
            if not off:
                break
            for content in off:
                prices[content] = own[content].next_price()
            draft = run()
            errors = _errors(job, draft)
        back = [x for x in met if errors[x] > wanted[x].error]
        if back:
            prices[back] = [met[x] for x in back]
            draft = run()
        return draft


def weights_for(passes: Passes, job: Job, options: MergeOptions) -> Weights:
    """Return the weights of all items of a job. Raises UsageError for unknown tasks."""
    importance = importances(job.pieces, options.importance)
    energies, seen = passes.energies(), sensed(options.look.sensitivity)
    return weights_of(job.pieces, energies, options.weighing, importance, seen)


def passes_of(job: Job, options: MergeOptions) -> Passes:
    """Return the passes over the modules and tensors of a job; to be closed, as by ``with``."""
    workers = options.workers
    engine = Local(workers) if workers is None or isinstance(workers, int) else workers
    shards = None if engine.work is None else Shards(engine.work)
    modes = modes_of(options.forms)
    pool, pieces = pool_for(job.pieces, engine)
    about = pool, options.progress, engine.memory, shards
    try:
        return Passes(pieces, options.weighing, modes, *about)
    except BaseException:  # whoever asked has nothing to close
        pool.close()
        raise


def _search(passes: Passes, job: Job, budget: Budget, weights: Weights, fair: bool) -> Solution:
    """Search the draft that meets the budget at these weights.

    Raises BudgetError for a budget that cannot be met.
    """
    pieces = job.pieces
    run = _Runner(passes, job, budget, weights, fair)
    if not isinstance(budget, Size):
        return search_error(run, budget, price_of(budget, job, weights))
    fixed = job.around_coded(budget, Draft.empty(weights.whole, weights.counting))
    # Of a Gaussian source's 2^(-2 bits/number) the slope would be this but for the 3.
    rate = coded_bits(budget, fixed) / max(pieces.numbers, 1)
    guess = pieces.contents * 2 * math.log(2) / max(pieces.numbers, 1) * 2 ** (-3 * rate)
    guide = Guide(lambda price: passes.estimate(price, weights.whole), max(guess, 1e-30))
    return search_size(run, guide, budget, fixed)


def price_of(budget: MeanError | WorstError, job: Job, weights: Weights) -> float:
    """Estimate the price of a bit at which the errors are what ``budget`` permits.

    Where all numbers are coded finely, each has a noise that counts price / (2 ln 2), as a Gaussian
    source's has; so the relative error of a task is the root of the price times a constant of its
    own.
    """
    numbers = np.ones(job.pieces.contents)
    for task in job.pieces.tasks:
        if task.content is not None:
            numbers[task.content] = max(task.numbers, 1)
    counted = weights.by_task * weights.counting.totals
    some = counted > 0
    if not some.any():
        return 1.0
    noise = _NOISE * numbers[some] / (2 * math.log(2) * counted[some])
    return float((budget.limit / budget.of(np.sqrt(noise))) ** 2)


def _by_content(job: Job, kept: Mapping[str, KeptError]) -> dict[int, KeptError]:
    """Return the strictest error to keep of each content."""
    wanted: dict[int, KeptError] = {}
    for task in job.pieces.tasks:
        if task.content is not None and task.name in kept:
            keep = kept[task.name]
            wanted[task.content] = min(wanted.get(task.content, keep), keep, key=lambda x: x.error)
    return wanted


def _errors(job: Job, draft: Draft) -> dict[int, float]:
    """Return the error that the tasks of each content would state."""
    tasks = dataclasses.replace(job, restate=None).manifest(draft).tasks
    return {task.content: task.error for task in tasks if task.content is not None}


class _Runner:
    """Passes over the modules of a job as trials of its budget.

    fair: between passes the weights of the tasks move towards the worst one until all errors are
    alike; a trial before that is not settled.
    """

    def __init__(
        self, passes: Passes, job: Job, budget: Budget, weights: Weights, fair: bool
    ) -> None:
        self._passes, self._job, self._budget = passes, job, budget
        self._weights, self._fair = weights, fair

    def __call__(self, price: float, count: int, course: Course | None = None) -> Trial:
        weights = self._weights
        draft = self._passes.run(price, weights.whole, weights.counting, f"pass {count}", course)
        trial = Trial(draft, draft.price, self._job.value(self._budget, draft), draft.coded_bytes)
        errors = draft.relative_errors()
        # Adapters that change nothing have no error at any price: they are not to lose alike.
        some = draft.energies.sum(axis=1) > 0
        mean = max(float(errors[some].mean()), 1e-12) if some.any() else math.inf
        # The last passes are for the price alone.
        if not self._fair or errors.max() / mean < _ALIKE or count > MOST_PASSES - 4:
            return trial
        moved = np.where(some, weights.by_task * (errors / mean), weights.by_task)
        self._weights = dataclasses.replace(weights, by_task=moved)
        return dataclasses.replace(trial, settled=False)


_MOST_NUMBERS: Final = 1_000_000_000
"""Numbers to code for one curve of sizes, all its passes together: minutes on one core."""


@dataclass(frozen=True)
class CodedSize:
    """One size of a job.

    price: of a bit. size (bytes): of the whole file. errors: by task, relative Frobenius error as
    the manifest would state it. limited: errors that a limit on the error compares, (tasks that are
    coded,). forms: number of records of each form.
    """

    price: float
    size: int
    errors: Mapping[str, float]
    limited: Array
    forms: Mapping[str, int]


def passes_within_reach(numbers: int, most: int) -> int:
    """Return the number of passes over so many numbers that a curve may take, up to ``most``."""
    return min(_MOST_NUMBERS // max(numbers, 1), most)


class Sizes(Closing):
    """Codes a job at prices of a bit; close it after use, as with a ``with`` block."""

    def __init__(self, job: Job, options: MergeOptions) -> None:
        self._job = job
        self._passes = passes_of(job, options)
        try:
            self.weights: Weights = weights_for(self._passes, job, options)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the workers."""
        self._passes.close()

    def at(self, price: float, stage: str = "coding") -> CodedSize | None:
        """Return the size at a price; None if readers would refuse it because it is too small."""
        weights = self.weights
        try:
            draft = self._passes.run(price, weights.whole, weights.counting, stage)
        except UnreadableError:
            return None
        manifest = self._job.manifest(draft)
        errors = {task.name: task.error for task in manifest.tasks}
        size = self._job.size(draft, manifest)
        return CodedSize(draft.price, size, errors, self._job.task_errors(draft), draft.forms)
