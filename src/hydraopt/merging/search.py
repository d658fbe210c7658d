"""The search for the price of a bit that meets a budget, over trials (draft, value).

Size and error both follow the price monotonically and nearly as a power law. For a size the planner
says where to look, and one or two passes do; for an error the noise of a number does, and a secant
in logarithms takes two or three.
What counts is what a pass really made: bytes of the file, errors after rounding. A search knows
nothing of modules or files: it asks a :class:`Runner` for one trial after the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

import numpy as np

from hydraopt.errors import BudgetError, explain
from hydraopt.merging.budget import Budget, MeanError, Size, WorstError
from hydraopt.merging.draft import Course
from hydraopt.merging.guide import SIZE_SLOPE, Guide

__all__ = [
    "CODED",
    "MOST_PASSES",
    "Runner",
    "Solution",
    "Trial",
    "coded_bits",
    "search_error",
    "search_size",
]

D = TypeVar("D")

MOST_PASSES = 12
_GUIDED = 3
"""Passes after which the search for a size goes by what passes made alone."""
_STEERED = (0.997, 0.995)
"""The shares of a size that the first passes are steered to."""
CODED = 0.96
"""What coding takes of the planner's estimate, about: parts are livelier than Gaussian ones."""
_ERROR_SLOPE = 0.45
"""Errors rise about as price^0.45: as its root where all is coded finely, less where parts are left
out."""
_SIZE_AIM, _SIZE_MET = 0.995, 0.99
_ERROR_AIM, _ERROR_MET = 0.985, 0.97
"""Shares of a limit: where to aim, and from where on it counts as met."""


@dataclass(frozen=True)
class Trial(Generic[D]):
    """What one pass made.

    price: the price of a bit that it was made at, on average. value: what the budget limits.
    coded_bytes: bytes that follow the price. settled: whether the weights behind it are those that
    the next pass will have; a draft that is not settled is no answer.
    """

    draft: D
    price: float
    value: float
    coded_bytes: int = 0
    settled: bool = True


class Runner(Protocol[D]):
    """Makes trials."""

    def run(self, price: float, count: int, course: Course | None = None) -> Trial[D]:
        """The ``count``-th pass, at ``price``, steered by ``course`` if there is one."""
        ...


@dataclass(frozen=True)
class Solution(Generic[D]):
    """The draft that met the budget, and how many passes it took."""

    draft: D
    passes: int


def search_size(runner: Runner[D], guide: Guide, budget: Size, fixed: int = 0) -> Solution[D]:
    """The largest draft of at most ``budget.limit`` bytes.

    guide: what the planner expects of a price. fixed: bytes of a file in which nothing is coded.
    Raises BudgetError if no price meets the budget.
    """
    wanted = _SIZE_AIM * budget.limit
    nearest, secant = _Nearest[D](budget, _SIZE_MET), _Secant(wanted, SIZE_SLOPE)
    price = guide.price(coded_bits(budget, fixed))
    guided = True
    for count in range(1, MOST_PASSES + 1):
        course = None
        if guided and count <= len(_STEERED):
            course = guide.course(price, 8 * (_STEERED[count - 1] * budget.limit - fixed))
        trial = runner.run(price, count, course)
        if nearest.takes(trial):
            return Solution(trial.draft, count)
        secant.add(trial.price, trial.value, trial.settled)
        guided &= trial.settled  # The guide knows the first weights alone.
        if guided and count <= _GUIDED and trial.coded_bytes and guide.bits(trial.price):
            around = trial.value - trial.coded_bytes
            change = max(wanted - around, 1.0) / trial.coded_bytes
            price = guide.price(change * guide.bits(trial.price))
        else:
            price = secant.next_price()
    return nearest.solution()


def search_error(runner: Runner[D], budget: MeanError | WorstError, start: float) -> Solution[D]:
    """The draft of the largest error within ``budget``, which is the smallest file.

    start: the price of the first pass. Raises BudgetError if no price meets the budget.
    """
    nearest = _Nearest[D](budget, _ERROR_MET)
    secant = _Secant(_ERROR_AIM * budget.limit, _ERROR_SLOPE)
    price = start
    for count in range(1, MOST_PASSES + 1):
        trial = runner.run(price, count)
        # No error at all is one of adapters that change nothing, whatever the price.
        if nearest.takes(trial) or (trial.settled and trial.value == 0):
            return Solution(trial.draft, count)
        secant.add(trial.price, trial.value, trial.settled)
        price = secant.next_price()
    return nearest.solution()


def coded_bits(budget: Size, fixed: int) -> float:
    """Bits that the planner may expect of what is coded, in a file of the wanted size."""
    return 8 * max(_SIZE_AIM * budget.limit - fixed, 1.0) / CODED


class _Nearest(Generic[D]):
    """The trial within the budget that is nearest to its limit."""

    def __init__(self, budget: Budget, met: float) -> None:
        self._budget, self._met = budget, met
        self._best: Trial[D] | None = None
        self._last = math.nan

    def takes(self, trial: Trial[D]) -> bool:
        """Keep the trial if it is nearer than those before; whether it meets the budget."""
        limit, self._last = self._budget.limit, trial.value
        if not trial.settled or trial.value > limit:
            return False
        if self._best is None or trial.value > self._best.value:
            self._best = trial
        return trial.value >= self._met * limit

    def solution(self) -> Solution[D]:
        """The nearest of all trials; raises BudgetError if there is none."""
        if self._best is not None:
            return Solution(self._best.draft, MOST_PASSES)
        raise BudgetError(
            explain(
                f"the budget cannot be met: {self._budget.name} of {self._budget.limit:g}",
                got=f"{self._last:g} after {MOST_PASSES} passes",
                expected=f"at most {self._budget.limit:g}",
                do="Ask for more bytes, for a larger error, or for --lossless",
            )
        )


Point = tuple[float, float]
_TINY: Final = 1e-300


class _Secant:
    """Log value against log price, as far as trials have shown it: a bracket, and a slope."""

    def __init__(self, wanted: float, slope: float) -> None:
        self._wanted, self._slope = math.log(max(wanted, _TINY)), slope
        self._point: Point | None = None
        self._settled = True
        # The nearest points on either side of what is wanted; ``_low`` has the lower price.
        self._low: Point | None = None
        self._high: Point | None = None

    def add(self, price: float, value: float, settled: bool) -> None:
        """Learn from a trial; from one that is not settled only where it lies: the next one has
        other weights."""
        point = math.log(max(price, _TINY)), math.log(max(value, 1e-12))
        before, self._point = self._point, point
        alike, self._settled = settled and self._settled, settled
        if not alike:
            self._low = self._high = None
        elif before and before[0] != point[0]:
            # At high rate the law is another one: go by the slope just seen.
            seen = (point[1] - before[1]) / (point[0] - before[0])
            bounds = (-3, -0.03) if self._slope < 0 else (0.03, 3)
            self._slope = float(np.clip(seen, *bounds))
        if (point[1] > self._wanted) == (self._slope < 0):
            self._low = point
        else:
            self._high = point

    def next_price(self) -> float:
        """A secant inside the bracket, a step along the known slope outside."""
        low, high, point = self._low, self._high, self._point
        assert point is not None
        if low and high and low[0] < high[0] and low[1] != high[1]:
            share = (self._wanted - low[1]) / (high[1] - low[1])
            return math.exp(low[0] + min(max(share, 0.05), 0.95) * (high[0] - low[0]))
        step = float(np.clip((self._wanted - point[1]) / self._slope, -6, 6))
        return math.exp(min(max(point[0] + step, math.log(_TINY)), -math.log(_TINY)))
