"""Smooth interpolation that keeps the order of its points."""

from __future__ import annotations

import numpy as np

from hydraopt.linalg.shapes import Array

__all__ = ["MonotoneCubic"]


class MonotoneCubic:
    """Cubic through points that rises and falls only where they do (PCHIP).

    x: rising, at least two.  y: of the same length.

    Source: Fritsch and Butland 1984, A Method for Constructing Local Monotone Piecewise Cubic
    Interpolants; end slopes as in scipy's PchipInterpolator, which takes longer to load than a
    small merge.
    """

    def __init__(self, x: Array, y: Array) -> None:
        self._x, self._y = x, y
        self._steps = np.diff(x)
        self._rises = np.diff(y) / self._steps
        self._slopes = self._all_slopes()

    def _all_slopes(self) -> Array:
        h, rises = self._steps, self._rises
        if len(h) == 1:
            return np.repeat(rises, 2)
        slopes = np.zeros(len(self._x))
        same = rises[:-1] * rises[1:] > 0
        before, after = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            means = (before + after) / (before / rises[:-1] + after / rises[1:])
        slopes[1:-1] = np.where(same, means, 0.0)
        slopes[0] = _end(h[0], h[1], rises[0], rises[1])
        slopes[-1] = _end(h[-1], h[-2], rises[-1], rises[-2])
        return slopes

    def __call__(self, x: Array) -> Array:
        """Return the values at ``x``, which lies between the first point and the last."""
        i = np.clip(np.searchsorted(self._x, x, side="right") - 1, 0, len(self._steps) - 1)
        h, rise, left, right = self._steps[i], self._rises[i], self._slopes[i], self._slopes[i + 1]
        t = x - self._x[i]
        bend = (3 * rise - 2 * left - right) / h
        turn = (left + right - 2 * rise) / h**2
        values: Array = self._y[i] + t * (left + t * (bend + t * turn))
        return values


def _end(h: float, next_h: float, rise: float, next_rise: float) -> float:
    """Return the slope at an end: that of a parabola, kept from turning back or overshooting."""
    slope = ((2 * h + next_h) * rise - h * next_rise) / (h + next_h)
    if slope * rise <= 0:
        return 0.0
    if rise * next_rise <= 0 and abs(slope) > 3 * abs(rise):
        return 3 * rise
    return slope
