"""Curves of one coded stream over its own price: bytes, relative error, measured harm.

A stream's own price q is the price of a bit over the weight of its task: all that the planner lets
it feel of the others. Trials at several q are joined by monotone cubics in logarithms (PCHIP,
Fritsch and Carlson 1980); a falling harm, which few prompts may show, is levelled first (the pool
of adjacent violators).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from hydraopt.linalg.shapes import Array

__all__ = ["LEAST_HARM", "HarmCurve", "Line", "TrialPoint"]

LEAST_HARM: Final = 1e-6
"""Harm assumed for a measured zero, because logarithms are taken."""
_REACH: Final = math.log(30)
"""Reach of a curve below its finest trial, in log price.
Above its coarsest trial the same reach is searched for the price at which bytes are of use."""
_MOST_MOVED: Final = 3.0
_LOOKS: Final = 400
"""Number of prices at which a curve is checked for bytes of use."""
_STEEPEST: Final = 1.0
"""Maximum slope of log harm over log price, beyond the trials.
Harm rises with the error, about as price^0.3."""


@dataclass(frozen=True)
class TrialPoint:
    """Trial of one stream.

    price: the stream's own price.
    size: bytes, including the stream's share of the shared core.
    error: relative Frobenius error.
    harm: harm that is limited or minimised; None if not measured.
    """

    price: float
    size: float
    error: float
    harm: float | None


@dataclass(frozen=True)
class HarmCurve:
    """Trials of one stream, by rising price; some measured bytes alone, without a harm.

    useful: bytes beyond which more are of no use to the stream.
    """

    points: tuple[TrialPoint, ...]
    useful: float = math.inf
    _bytes: Line = field(init=False, repr=False, compare=False)
    _harm: Line = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        points = sorted(self.points, key=lambda point: point.price)
        object.__setattr__(self, "points", tuple(points))
        known = [point for point in points if point.harm is not None]
        prices, seen = _logs([p.price for p in points]), _logs([p.price for p in known])
        sizes = _levelled(-_logs([p.size for p in points]))
        harms = _levelled(_logs([max(p.harm or 0.0, LEAST_HARM) for p in known]))
        object.__setattr__(self, "_bytes", Line(prices, sizes))
        object.__setattr__(self, "_harm", Line(seen, harms))

    @property
    def range(self) -> tuple[float, float]:
        """Logarithms of the lowest and highest price at which the curve is used.

        It is extrapolated to finer prices than the finest trial's, but not to coarser ones than the
        coarsest trial's, because a cliff may follow. Where bytes are of no use, the range reaches
        as far as they are.
        """
        known = [math.log(p.price) for p in self.points if p.harm is not None]
        finest, coarsest = min(known) - _REACH, max(known)
        if self.useful == math.inf:
            return finest, coarsest
        grid = np.linspace(finest, coarsest + _REACH, _LOOKS)
        useful = grid[self.sizes(grid) <= self.useful]
        first = float(useful[0]) if useful.size else coarsest
        return first, max(first, coarsest)

    def sizes(self, logs: Array) -> Array:
        """Return the bytes at logarithms of own prices."""
        sizes: Array = np.exp(-self._bytes(logs))
        return sizes

    def harms(self, logs: Array) -> Array:
        """Return the harm at logarithms of own prices."""
        harms: Array = np.exp(self._harm(logs))
        return harms

    def corrected(self, point: TrialPoint) -> HarmCurve:
        """Return the curve with a new point, and the bytes of earlier trials scaled towards it.

        The factor is _MOST_MOVED at most. Harms of earlier trials stay, except that a coarser trial
        does at least as much harm as the new point, and a finer one at most as much. If harms were
        scaled as well, a task that fares well near its cliff would hide the cliff.
        """
        at = np.array([math.log(point.price)])
        size = _moved(point.size, float(self.sizes(at)[0]))
        before = []
        for x in self.points:
            told = x.harm
            if told is not None and point.harm is not None:
                bound = max if x.price > point.price else min
                told = bound(told, point.harm)
            if x.price != point.price:
                before.append(replace(x, size=x.size * size, harm=told))
        return replace(self, points=(*before, point))


def _moved(seen: float, expected: float) -> float:
    ratio = max(seen, 1e-300) / max(expected, 1e-300)
    return min(max(ratio, 1 / _MOST_MOVED), _MOST_MOVED)


class Line:
    """Monotone rising function through points, extrapolated with its end slopes.

    Of several points at one place the first counts.
    """

    def __init__(self, x: Array, y: Array) -> None:
        from scipy.interpolate import PchipInterpolator  # longer to load than small merges take

        at, first = np.unique(x, return_index=True)
        self._x, self._y = at, y[first]
        self._between = PchipInterpolator(at, self._y) if at.size > 1 else None

    def __call__(self, x: Array) -> Array:
        """Return the values at x, of the same shape."""
        inside = np.clip(x, self._x[0], self._x[-1])
        if self._between is None:
            return np.full(x.shape, self._y[0]) + 0.3 * (x - inside)
        values = self._between(inside)
        ends = np.clip(np.diff(self._y) / np.diff(self._x), 0.0, _STEEPEST)
        beyond = np.where(x < inside, ends[0], ends[-1]) * (x - inside)
        total: Array = values + beyond
        return total


def _logs(values: Sequence[float]) -> Array:
    return np.log(np.maximum(np.asarray(values, np.float64), 1e-300))


def _levelled(values: Array) -> Array:
    """Return the nearest rising values (least squares), by the pool of adjacent violators."""
    blocks: list[list[float]] = []  # (mean, count)
    for value in values:
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, n), (b, m) = blocks[-2], blocks[-1]
            blocks[-2:] = [[(a * n + b * m) / (n + m), n + m]]
    levelled: Array = np.concatenate([np.full(int(n), mean) for mean, n in blocks])
    return levelled
