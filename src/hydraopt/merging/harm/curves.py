"""Curves of one coded stream over its own price: bytes, relative error, measured harm.

A stream's own price q is the price of a bit over the weight of its task: all that the planner lets
it feel of the others. Trials at several q are joined by monotone cubics in logarithms (PCHIP,
Fritsch and Carlson 1980); a falling harm, which few prompts may show, is levelled first (the pool
of adjacent violators). What a later measurement shows at one q shifts the whole curve, for a curve
moves with the weights of the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from scipy.interpolate import PchipInterpolator

from hydraopt.linalg.shapes import Array

__all__ = ["LEAST_HARM", "Curve", "TrialPoint"]

LEAST_HARM: Final = 1e-6
"""What a measured zero counts: logarithms have to be taken."""
_REACH: Final = math.log(30)
"""How far beyond its trials a curve is believed, in logarithms of prices."""
_STEEPEST: Final = 1.0
"""Of log harm over log price, beyond the trials: harm rises with the error, about as price^0.3."""


@dataclass(frozen=True)
class TrialPoint:
    """A trial of one stream. price: its own. size: bytes, its share of the shared core among them.
    error: relative Frobenius. harm: what is limited or minimised, None where it was not measured.
    """

    price: float
    size: float
    error: float
    harm: float | None


@dataclass(frozen=True)
class Curve:
    """One stream's trials, by rising price, at least two prices; ``shift`` is what measuring again
    has added to the logarithms of (bytes, harm)."""

    points: tuple[TrialPoint, ...]
    shift: tuple[float, float] = (0.0, 0.0)
    _bytes: _Line = field(init=False, repr=False, compare=False)
    _harm: _Line = field(init=False, repr=False, compare=False)
    _error: _Line = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        points = sorted(self.points, key=lambda point: point.price)
        object.__setattr__(self, "points", tuple(points))
        known = [point for point in points if point.harm is not None]
        prices, seen = _logs([p.price for p in points]), _logs([p.price for p in known])
        sizes = _levelled(-_logs([p.size for p in points]))
        harms = _levelled(_logs([max(p.harm or 0.0, LEAST_HARM) for p in known]))
        errors = _levelled(_logs([p.error for p in points]))
        object.__setattr__(self, "_bytes", _Line(prices, sizes))
        object.__setattr__(self, "_harm", _Line(seen, harms))
        object.__setattr__(self, "_error", _Line(prices, errors))

    @property
    def range(self) -> tuple[float, float]:
        """Logarithms of the prices between which the curve is believed."""
        known = [math.log(p.price) for p in self.points if p.harm is not None]
        return min(known) - _REACH, max(known) + _REACH

    def sizes(self, logs: Array) -> Array:
        """Bytes at logarithms of own prices."""
        sizes: Array = np.exp(self.shift[0] - self._bytes(logs))
        return sizes

    def harms(self, logs: Array) -> Array:
        """Harm at logarithms of own prices."""
        harms: Array = np.exp(self.shift[1] + self._harm(logs))
        return harms

    def errors(self, logs: Array) -> Array:
        """Relative errors at logarithms of own prices."""
        errors: Array = np.exp(self._error(logs))
        return errors

    def corrected(self, point: TrialPoint) -> Curve:
        """The curve through what was measured at a chosen price."""
        at = np.array([math.log(point.price)])
        size = self.shift[0] + math.log(max(point.size, 1.0) / float(self.sizes(at)[0]))
        harm = self.shift[1]
        if point.harm is not None:
            harm += math.log(max(point.harm, LEAST_HARM) / max(float(self.harms(at)[0]), 1e-300))
        return Curve(self.points, (size, harm))


class _Line:
    """A monotone rising function through points, going on with its end slopes."""

    def __init__(self, x: Array, y: Array) -> None:
        at, first = np.unique(x, return_index=True)
        self._x, self._y = at, y[first]
        self._between = PchipInterpolator(at, self._y) if at.size > 1 else None

    def __call__(self, x: Array) -> Array:
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
    """The nearest rising values (least squares): the pool of adjacent violators."""
    blocks: list[list[float]] = []  # (mean, count)
    for value in values:
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, n), (b, m) = blocks[-2], blocks[-1]
            blocks[-2:] = [[(a * n + b * m) / (n + m), n + m]]
    levelled: Array = np.concatenate([np.full(int(n), mean) for mean, n in blocks])
    return levelled
