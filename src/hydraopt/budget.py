"""Budgets: what the user asks for, and the search for the price of a bit that meets it.

Size and error both follow the price monotonically and nearly as a power law. For a size the planner
says where to look, and one or two passes do; for an error a secant in logarithms takes a few more.
What counts is what a pass really made: bytes of the file, errors after rounding.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hydraopt.errors import BudgetError, UsageError, explain
from hydraopt.passes import Course, Draft, Passes
from hydraopt.types import Array

__all__ = ["Budget", "Found", "parse_size", "search"]

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
_MOST_PASSES = 12
_GUIDED = 3
"""Passes after which the search goes by what passes made alone."""
_SIZE_SLOPE = -0.6
"""Bits fall about as price^-0.6."""
_STEERED = (0.997, 0.995)
"""The shares of a size that the first passes are steered to."""
_NEAR = 0.03
"""Logarithms of prices that are so near each other that the slope tells the bits between them."""
_MOST_ESTIMATES = 8
_LEAST = -80.0
"""The logarithm of a price at which everything pays."""
_CODED = 0.96
"""What coding takes of the planner's estimate, about: parts are livelier than Gaussian ones."""


def parse_size(text: str | int, fp16_bytes: int) -> int:
    """Bytes of "5%" (of the inputs' fp16 bytes), "3MB" (10^6), "3MiB" (2^20) or a plain number.

    Raises UsageError for anything else, and for less than a byte.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*(%|[a-z]*)\s*", str(text).lower())
    if match and (match[2] == "%" or match[2] in _UNITS):
        number = float(match[1])
        size = number / 100 * fp16_bytes if match[2] == "%" else number * _UNITS[match[2]]
        if 1 <= size < math.inf:  # a bare 0.05 is no size
            return int(size)
    raise UsageError(
        explain("cannot read the size", got=repr(text), expected="5%, 800KB, 3MB, 2MiB or bytes")
    )


@dataclass(frozen=True)
class Budget:
    """One limit: kind "size" in bytes of the whole file; "error", the mean over tasks of the
    relative Frobenius error; "max-error", that of the worst task."""

    kind: Literal["size", "error", "max-error"]
    value: float

    def __post_init__(self) -> None:
        if self.kind != "size" and not 0 < self.value < 1:
            raise UsageError(
                explain(f"--{self.kind} is a fraction", got=self.value, expected="between 0 and 1")
            )


@dataclass(frozen=True)
class Found:
    """The draft that met the budget, and how many passes it took."""

    draft: Draft
    passes: int


class Guide:
    """What the planner expects of a price, to find a price with; nothing is rounded or coded.

    estimate: bits at a price. They fall smoothly and nearly as a power of it, so between two prices
    that are near each other no third one has to be tried. What coding really takes is a nearly
    constant multiple of the estimate, which the passes tell.
    """

    def __init__(self, estimate: Callable[[float], Array], start: float) -> None:
        self._estimate = estimate
        self._points: list[tuple[float, float]] = []  # (log price, log bits)
        self._at = math.log(start)
        self._last = np.zeros(0)

    def price(self, bits: float) -> float:
        """Where the estimate is ``bits``."""
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
        """The estimate near a price that :meth:`price` gave; 0 if nothing is known."""
        if not self._points:
            return 0.0
        x = math.log(price)
        (x0, y0), slope = self._nearest(x)
        return math.exp(y0 + slope * (x - x0))

    def course(self, price: float, wanted: float) -> Course | None:
        """How to steer a pass that starts at a price that :meth:`price` just gave."""
        expected = self.bits(price)
        if not expected:
            return None
        bits = self._last * (expected / self._last.sum())
        return Course(bits, self._nearest(math.log(price))[1], wanted)

    def _try(self) -> float:
        self._last = self._estimate(math.exp(self._at))
        return float(self._last.sum())

    def _nearest(self, x: float) -> tuple[tuple[float, float], float]:
        """The nearest point that is known, and the slope from there towards ``x``."""
        near = min(self._points, key=lambda point: abs(point[0] - x))
        others = [p for p in self._points if (p[0] - near[0]) * (x - near[0]) > 0]
        others = others or [p for p in self._points if p[0] != near[0]]
        if not others:
            return near, _SIZE_SLOPE
        other = min(others, key=lambda point: abs(point[0] - near[0]))
        slope = (other[1] - near[1]) / (other[0] - near[0])
        return near, float(np.clip(slope, -5, -0.1))

    def _crossing(self, wanted: float) -> tuple[float, bool]:
        """The log price where the known points say ``wanted``, and whether one of them is near."""
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


def search(
    passes: Passes,
    budget: Budget,
    weights: Array,
    value_of: Callable[[Draft], float],
    numbers: int,
    fixed: int = 0,
    fair: bool = False,
) -> Found:
    """The largest draft within the budget.

    value_of: what the budget limits, of a draft. numbers: how many the inputs hold. fixed: bytes of
    a file in which nothing is coded. fair: between passes, weights move towards the worst task
    until all errors are alike. Raises BudgetError if no price meets it.
    """
    guide, slope = None, 0.3  # errors rise about as price^0.3
    price = 1e-5 * budget.value**3 / weights.size
    wanted = _aim(budget)
    if budget.kind == "size":
        bits = 8 * max(wanted - fixed, 1.0) / _CODED
        # Of a Gaussian source's 2^(-2 bits/number) the slope would be this but for the 3.
        start = weights.size * 2 * math.log(2) / numbers * 2 ** (-3 * bits / numbers)
        guide = Guide(lambda p: passes.estimate(p, weights), max(start, 1e-30))
        price, slope = guide.price(bits), _SIZE_SLOPE
    best = None
    low = high = None  # (log price, log value), nearest on either side of the budget
    point: tuple[float, float] | None = None
    for count in range(1, _MOST_PASSES + 1):
        course = None
        if guide and count <= len(_STEERED):
            course = guide.course(price, 8 * (_STEERED[count - 1] * budget.value - fixed))
        draft = passes.run(price, weights, f"pass {count}", course)
        price = draft.price
        value = value_of(draft)
        settled = not fair or _spread(draft) < 1.05 or count > _MOST_PASSES - 4
        if value <= budget.value and settled:
            if best is None or abs(value - budget.value) < abs(value_of(best) - budget.value):
                best = draft
            if _close(budget, value):
                return Found(draft, count)
        if fair and not settled:
            weights = weights * (draft.relative_errors() / draft.relative_errors().mean())
            low = high = guide = None
        before, point = point, (math.log(price), math.log(max(value, 1e-12)))
        if before and before[0] != point[0] and not (fair and not settled):
            # At high rate the law is another one: go by the slope just seen.
            seen = (point[1] - before[1]) / (point[0] - before[0])
            slope = float(np.clip(seen, -3, -0.03) if slope < 0 else np.clip(seen, 0.03, 3))
        if (point[1] > math.log(wanted)) == (slope < 0):
            low = point
        else:
            high = point
        if guide and count <= _GUIDED and draft.coded_bytes and guide.bits(price):
            around = value - draft.coded_bytes
            change = max(wanted - around, 1.0) / draft.coded_bytes
            price = guide.price(change * guide.bits(price))
        else:
            price = math.exp(_next(point, low, high, math.log(wanted), slope))
    if best is not None:
        return Found(best, _MOST_PASSES)
    raise BudgetError(
        explain(
            f"the budget cannot be met: {budget.kind} of {budget.value:g}",
            got=f"{value:g} at the nearest",
            expected=f"at most {budget.value:g}",
            do="Ask for more bytes, for a larger error, or for --lossless",
        )
    )


def _aim(budget: Budget) -> float:
    """Where to aim: the middle of what counts as met."""
    return budget.value * (0.995 if budget.kind == "size" else 0.985)


def _close(budget: Budget, value: float) -> bool:
    return value >= budget.value * (0.99 if budget.kind == "size" else 0.97)


def _next(
    point: tuple[float, float],
    low: tuple[float, float] | None,
    high: tuple[float, float] | None,
    wanted: float,
    slope: float,
) -> float:
    """The next log price: a secant inside the bracket, a step along the known slope outside."""
    if low and high and low[0] < high[0] and low[1] != high[1]:
        share = (wanted - low[1]) / (high[1] - low[1])
        return low[0] + min(max(share, 0.05), 0.95) * (high[0] - low[0])
    return point[0] + float(np.clip((wanted - point[1]) / slope, -6, 6))


def _spread(draft: Draft) -> float:
    errors = draft.relative_errors()
    return float(errors.max() / max(errors.mean(), 1e-12))
