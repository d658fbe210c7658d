"""Search the price of a bit that meets a budget, over trials (draft, value).

Size and error both follow the price monotonically and nearly as a power law. For a size the planner
says where to look, and one or two passes do; for an error the noise of a number does, and a secant
in logarithms takes two or three.
What counts is what a pass really made: bytes of the file, errors after rounding. A search knows
nothing of modules or files: it asks for one trial after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from hydraopt.codec import Array
from hydraopt.errors import BudgetError, explain
from hydraopt.merging.job import Course, Draft, Solution, UnreadableError
from hydraopt.merging.limits import Budget, MeanError, Size, WorstError

SIZE_SLOPE = -0.6
"""Bits fall about as price^-0.6."""
_NEAR = 0.03
"""Distance in log price within which the slope predicts the bits between two prices."""
_MOST_ESTIMATES = 8
_LEAST = -80.0
"""Log price at which everything pays."""


class Guide:
    """Estimate of coded bits by price, used to choose prices; nothing is rounded or coded.

    estimate: returns the bits at a price. They fall smoothly and nearly as a power of the price,
    so no third price is tried between two that are near each other. Coding takes a nearly
    constant multiple of the estimate; the passes show which.
    """

    def __init__(self, estimate: Callable[[float], Array], start: float) -> None:
        self._estimate = estimate
        self._points: list[tuple[float, float]] = []  # (log price, log bits)
        self._at = math.log(start)
        self._last = np.zeros(0)

    def price(self, bits: float) -> float:
        """Return the price at which the estimate is ``bits``."""
        wanted = math.log(bits)
        for _ in range(_MOST_ESTIMATES):
            self._at, known = self._crossing(wanted)
            if known:
                break
            here = self._try()
            while here <= 0 and self._at > _LEAST:
                self._at -= 4  # Nothing pays any more: go back by a large step.
                here = self._try()
            if here <= 0:
                break
            self._points = sorted([*self._points, (self._at, math.log(here))])
        return math.exp(self._at)

    def bits(self, price: float) -> float:
        """Return the estimate near a price from :meth:`price`; 0 if nothing is known."""
        if not self._points:
            return 0.0
        x = math.log(price)
        (x0, y0), slope = self._nearest(x)
        return math.exp(y0 + slope * (x - x0))

    def course(self, price: float, wanted: float) -> Course | None:
        """Return the course of a pass that starts at the last price of :meth:`price`.

        Returns None if the estimate is zero bits.
        """
        expected = self.bits(price)
        if not expected:
            return None
        bits = self._last * (expected / self._last.sum())
        return Course(bits, self._nearest(math.log(price))[1], wanted)

    def _try(self) -> float:
        self._last = self._estimate(math.exp(self._at))
        return float(self._last.sum())

    def _nearest(self, x: float) -> tuple[tuple[float, float], float]:
        """Return the nearest known point, and the slope from there towards ``x``."""
        near = min(self._points, key=lambda point: abs(point[0] - x))
        others = [p for p in self._points if (p[0] - near[0]) * (x - near[0]) > 0]
        others = others or [p for p in self._points if p[0] != near[0]]
        if not others:
            return near, SIZE_SLOPE
        other = min(others, key=lambda point: abs(point[0] - near[0]))
        slope = (other[1] - near[1]) / (other[0] - near[0])
        return near, float(np.clip(slope, -5, -0.1))

    def _crossing(self, wanted: float) -> tuple[float, bool]:
        """Return the log price at which known points give ``wanted``, and whether one is near."""
        if not self._points:
            return self._at, False
        more = max((p for p in self._points if p[1] >= wanted), default=None)
        less = min((p for p in self._points if p[1] < wanted), default=None)
        if more and less and more[0] < less[0]:
            share = (more[1] - wanted) / (more[1] - less[1])
            x = more[0] + share * (less[0] - more[0])
            return x, min(x - more[0], less[0] - x) < _NEAR
        near = more or less
        assert near is not None
        step = float(np.clip((wanted - near[1]) / self._nearest(near[0])[1], -6, 6))
        return near[0] + step, abs(step) < _NEAR and len(self._points) > 1


MOST_PASSES = 12
_GUIDED = 3
"""Number of passes after which the search for a size relies on the passes alone."""
_STEERED = (0.997, 0.995)
"""Shares of a size that the first passes aim at."""
_CODED = 0.96
"""Ratio of coded bits to the planner's estimate, about: parts are livelier than Gaussian ones."""
ERROR_SLOPE = 0.45
"""Errors rise about as price^0.45: as its root where all is coded finely, less where parts are left
out."""
_SIZE_AIM, _SIZE_MET = 0.995, 0.99
_ERROR_AIM, _ERROR_MET = 0.985, 0.97
"""Shares of a limit: the target, and the least share that counts as met."""


@dataclass(frozen=True)
class Trial:
    """Result of one coding pass.

    price: price of a bit in the pass, on average.
    value: the quantity that the budget limits.
    coded_bytes: bytes that depend on the price.
    settled: whether the next pass will use the same weights; a draft that is not settled is no
        final answer.
    """

    draft: Draft
    price: float
    value: float
    coded_bytes: int = 0
    settled: bool = True


class Run(Protocol):
    """Function that runs a trial: a pass, the ``count``-th, at ``price``, steered by ``course``."""

    def __call__(self, price: float, count: int, course: Course | None = None) -> Trial: ...


def search_size(run: Run, guide: Guide, budget: Size, fixed: int = 0) -> Solution:
    """Search the largest draft of at most ``budget.limit`` bytes.

    guide: the planner's expectation at each price.
    fixed: bytes of a file in which nothing is coded.

    Raises BudgetError if no price meets the budget, and UnreadableError if all prices that do give
    drafts that readers refuse.
    """
    wanted = _SIZE_AIM * budget.limit
    nearest, secant = _Nearest(budget, _SIZE_MET), Secant(wanted, SIZE_SLOPE)
    price = guide.price(coded_bits(budget, fixed))
    guided, before, over = True, None, False
    for count in range(1, MOST_PASSES + 1):
        course = None
        if guided and count <= len(_STEERED):
            course = guide.course(price, 8 * (_STEERED[count - 1] * budget.limit - fixed))
        trial = _tried(run, nearest, secant, price, count, course)
        if trial and nearest.takes(trial):
            return Solution(trial.draft, count)
        # Where a price made too much, a higher one that buys more than nothing may still fit.
        over |= trial is not None and trial.value > budget.limit
        saturated = before and trial and not over and _is_saturated(before, trial, budget)
        if secant.closed or saturated:
            return nearest.solution(count)
        before = trial
        guided &= trial is not None and trial.settled  # The guide knows the first weights alone.
        bits = guide.bits(trial.price) if trial and guided and count <= _GUIDED else 0.0
        if trial and trial.coded_bytes and bits:
            around = trial.value - trial.coded_bytes
            change = max(wanted - around, 1.0) / trial.coded_bytes
            price = guide.price(change * bits)
        else:
            price = secant.next_price()
    return nearest.solution(MOST_PASSES)


def search_error(run: Run, budget: MeanError | WorstError, start: float) -> Solution:
    """Search the draft of the largest error within ``budget``, which is the smallest file.

    A draft that readers refuse is too coarse. If the limit asks for one, the coarsest draft that
    they accept is within it.

    start: price of the first pass.

    Raises BudgetError if no price meets the budget.
    """
    nearest = _Nearest(budget, _ERROR_MET)
    secant = Secant(_ERROR_AIM * budget.limit, ERROR_SLOPE)
    price, before = start, None
    for count in range(1, MOST_PASSES + 1):
        trial = _tried(run, nearest, secant, price, count)
        if trial and nearest.takes(trial):
            return Solution(trial.draft, count)
        if secant.closed or (before and trial and _is_idle(before, trial)):
            return nearest.solution(count)
        if not nearest.has_one and secant.stands_still:
            raise nearest.floor(count)
        before, price = trial, secant.next_price()
    return nearest.solution(MOST_PASSES)


def _tried(
    run: Run,
    nearest: _Nearest,
    secant: Secant,
    price: float,
    count: int,
    course: Course | None = None,
) -> Trial | None:
    """Run a trial and let the secant learn from it; return None for an unreadable one."""
    try:
        trial = run(price, count, course)
    except UnreadableError as error:
        nearest.unreadable = error
        secant.refuse(error.draft.price)
        return None
    secant.add(trial.price, trial.value, trial.settled)
    return trial


def _is_saturated(before: Trial, trial: Trial, budget: Size) -> bool:
    """Return whether a far lower price used none of the room left, so that no price will."""
    fits = trial.value <= budget.limit
    return fits and trial.price * _FAR < before.price and _same_bytes(before, trial)


def _is_idle(before: Trial, trial: Trial) -> bool:
    """Return whether the error is zero at every price, as for adapters that change nothing.

    Numbers of few bits have no error at a low price, and then take more bytes than they need.
    """
    return trial.value == before.value == 0 and _same_bytes(before, trial)


def _same_bytes(before: Trial, trial: Trial) -> bool:
    return before.settled and trial.settled and before.coded_bytes == trial.coded_bytes


def coded_bits(budget: Size, fixed: int) -> float:
    """Return the bits that coded data may take in a file of the wanted size."""
    return 8 * max(_SIZE_AIM * budget.limit - fixed, 1.0) / _CODED


class _Nearest:
    """Trial within the budget that is nearest to its limit.

    unreadable: last trial that readers would refuse, whatever its value.
    """

    def __init__(self, budget: Budget, met: float) -> None:
        self._budget, self._met = budget, met
        self._best: Trial | None = None
        self._last = math.nan
        self.unreadable: UnreadableError | None = None

    @property
    def has_one(self) -> bool:
        return self._best is not None

    def takes(self, trial: Trial) -> bool:
        """Keep the trial if it is nearer than those before; whether it meets the budget."""
        limit, self._last = self._budget.limit, trial.value
        if not trial.settled or trial.value > limit:
            return False
        best = self._best
        if best is None or (trial.value, -trial.coded_bytes) > (best.value, -best.coded_bytes):
            self._best = trial
        return trial.value >= self._met * limit

    def solution(self, passes: int) -> Solution:
        """Return the nearest trial. Raises BudgetError or UnreadableError without one."""
        if self._best is not None:
            return Solution(self._best.draft, passes)
        # A size is exceeded by all that readers take; an error, by what is finer than refused ones.
        if self.unreadable and (isinstance(self._budget, Size) or math.isnan(self._last)):
            raise self.unreadable
        raise self._unmet(passes, "Ask for more bytes, for a larger error, or for --lossless")

    def floor(self, passes: int) -> BudgetError:
        """Return the error of a limit below the smallest error at any price."""
        return self._unmet(
            passes,
            f"Heads and other whole tensors are coded to {self._last:.2g} at best, whatever the "
            "bytes: keep them bit by bit with --exact, ask for a larger error, or for --lossless",
        )

    def _unmet(self, passes: int, do: str) -> BudgetError:
        return BudgetError(
            explain(
                f"the budget cannot be met: {self._budget.name} of {self._budget.limit:g}",
                got=f"{self._last:g} after {passes} passes",
                expected=f"at most {self._budget.limit:g}",
                do=do,
            )
        )


Point = tuple[float, float]
_TINY: Final = 1e-300
_FAR: Final = 4.0
"""Factor by which a lower price buys something, if anything is left to buy."""
_STILL: Final = 0.05, 1e-3, 0.03
"""A value stands still if its logarithm changes by less than such a share of the price's, but in
any case by less than the second, and never by more than the third."""
_LEAST_STEP, _STEP, _LONGEST = math.log(2), 6.0, 48.0
"""Steps of the logarithm of a price: at least and at most where values stand still, and the second
where they do not."""
_EVERYWHERE: Final = 72.0
"""Span of log price without a change after which a value counts as constant everywhere."""
_CLOSED: Final = math.log(1.1)
"""Distance in log price from a ceiling within which the search ends."""
_NARROW: Final = 0.02
"""Width in log price of a bracket that contains a step, which no price in it divides."""


class Secant:
    """Log value against log price, as far as trials have shown it: a bracket, and a slope.

    A price at which a draft was refused is a ceiling for all later ones.
    """

    def __init__(self, wanted: float, slope: float) -> None:
        self._wanted, self._slope = math.log(max(wanted, _TINY)), slope
        self._point: Point | None = None
        self._settled = True
        # The nearest points on either side of what is wanted; ``_low`` has the lower price.
        self._low: Point | None = None
        self._high: Point | None = None
        self._moved = 0.0  # by the last trial, if the value stood still
        self._still = 0.0  # over all trials since it did
        self._same_end = False  # the last two trials were on one side
        self._ceiling, self._stride = math.inf, math.log(_FAR)
        self._taken = -math.inf  # the highest price below the ceiling that was not refused

    @property
    def closed(self) -> bool:
        """True if no price is left to try between one that is too high and one that is too low."""
        low, high = self._low, self._high
        if low and high and abs(high[0] - low[0]) < _NARROW:
            return True
        return self._ceiling - self._taken < _CLOSED and self._aim() > self._taken

    @property
    def stands_still(self) -> bool:
        """True if no price changes the value, although every price tried keeps some parts."""
        kept = self._point is not None and self._point[1] < -_STILL[1]
        return kept and self._still > _EVERYWHERE

    def refuse(self, price: float) -> None:
        """Learn that readers refuse what this price makes: it is too coarse."""
        self._ceiling = min(self._ceiling, math.log(max(price, _TINY)))
        if self._taken >= self._ceiling:
            self._taken = -math.inf

    def add(self, price: float, value: float, settled: bool) -> None:
        """Learn from a trial.

        A trial that is not settled tells only on which side it is, because the next one has other
        weights.
        """
        point = math.log(max(price, _TINY)), math.log(max(value, 1e-12))
        before, self._point = self._point, point
        alike, self._settled = settled and self._settled, settled
        if point[0] < self._ceiling:
            self._taken = max(self._taken, point[0])
        self._moved = _moved_in_vain(before, point)
        if not alike:
            self._low = self._high = None
        if not (alike and self._moved):
            self._still = 0.0
        if alike and self._moved:
            self._still += self._moved  # nothing can be learned of the slope
        elif alike and before and before[0] != point[0]:
            # At high rate the law is another one: go by the slope just seen.
            slope = (point[1] - before[1]) / (point[0] - before[0])
            bounds = (-3, -0.03) if self._slope < 0 else (0.03, 3)
            self._slope = float(np.clip(slope, *bounds))
        cheap = (point[1] > self._wanted) == (self._slope < 0)
        self._same_end = bool(self._low and self._high) and before == (
            self._low if cheap else self._high
        )
        if cheap:
            self._low = point
        else:
            self._high = point

    def next_price(self) -> float:
        """Return a secant inside the bracket, or a step along the known slope outside it."""
        aim = self._aim()
        if aim >= self._ceiling:
            if self._taken > -math.inf:
                aim = (self._taken + self._ceiling) / 2
            else:
                aim, self._stride = self._ceiling - self._stride, 2 * self._stride
        return math.exp(min(max(aim, math.log(_TINY)), -math.log(_TINY)))

    def _aim(self) -> float:
        """Return the logarithm of the price that is searched, whether or not it is refused."""
        low, high, point = self._low, self._high, self._point
        if point is None:
            return self._ceiling
        if low and high and low[0] < high[0] and low[1] != high[1]:
            share = (self._wanted - low[1]) / (high[1] - low[1])
            halved = self._same_end or high[0] - low[0] > _STEP  # no line fits so far
            share = 0.5 if halved else min(max(share, 0.05), 0.95)
            return low[0] + share * (high[0] - low[0])
        step = float(np.clip((self._wanted - point[1]) / self._slope, -_STEP, _STEP))
        if self._moved and step:  # far from where anything changes
            farther = min(max(2 * self._moved, _LEAST_STEP), _LONGEST)
            step = math.copysign(max(abs(step), farther), step)
        return point[0] + step


def _moved_in_vain(before: Point | None, point: Point) -> float:
    """Return the change of the log price if the value stood still, else zero."""
    if before is None:
        return 0.0
    moved, share = abs(point[0] - before[0]), _STILL
    still = abs(point[1] - before[1]) < max(share[1], min(share[0] * moved, share[2]))
    return moved if still else 0.0
