"""Curves of one coded stream over its own price: bytes and measured harm.

A stream's own price is the price of a bit divided by the weight of its task. Monotone cubics in
logarithms join the trials at several own prices (PCHIP, Fritsch and Carlson 1980). Harm that falls
with the price, which few prompts may show, is levelled first (pool of adjacent violators).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from hydraopt.linalg.interpolate import MonotoneCubic
from hydraopt.linalg.shapes import Array

__all__ = ["LEAST_HARM", "HarmCurve", "rising_line"]

LEAST_HARM: Final = 1e-6
"""Harm assumed for a measured zero, because logarithms are taken."""
_REACH: Final = math.log(30)
"""Reach of a curve below its finest trial, in log price.
Above its coarsest trial the same reach is searched for the price at which bytes are of use."""
_MOST_MOVED: Final = 3.0
"""Largest factor by which a new trial scales the bytes of earlier ones."""
_LOOKS: Final = 400
"""Number of prices at which a curve is checked for bytes of use."""
_STEEPEST: Final = 1.0
"""Maximum slope of log harm over log price, beyond the trials.
Harm rises with the error, about as price^0.3."""
_SLOPE_OF_ONE: Final = 0.3
"""Slope of a line through a single point."""
_TINY: Final = 1e-300


class HarmCurve:
    """Bytes and harm of one stream over its own price, through its trials.

    prices, sizes (trials,): own prices, rising, and bytes with the share of the shared core.
    harms (trials,): harm that is limited or minimised; NaN where only bytes were measured.
    useful: bytes beyond which more are of no use to the stream.
    """

    def __init__(self, prices: Array, sizes: Array, harms: Array, useful: float = math.inf) -> None:
        order = np.argsort(prices, kind="stable")
        self.prices, self.sizes, self.harms = prices[order], sizes[order], harms[order]
        self.useful = useful
        logs, known = _logs(self.prices), np.isfinite(self.harms)
        self._bytes_at = rising_line(logs, _levelled(-_logs(self.sizes)))
        least = np.maximum(self.harms[known], LEAST_HARM)
        self._harm_at = rising_line(logs[known], _levelled(_logs(least)))
        self._measured = self.prices[known]

    @property
    def range(self) -> tuple[float, float]:
        """Logarithms of the lowest and highest price at which the curve is used.

        It is extrapolated to finer prices than the finest trial's, but not to coarser ones than the
        coarsest trial's, because a cliff may follow. Where bytes are of no use, the range reaches
        as far as they are.
        """
        finest, coarsest = (math.log(self._measured[i]) for i in (0, -1))
        finest -= _REACH
        if self.useful == math.inf:
            return finest, coarsest
        grid = np.linspace(finest, coarsest + _REACH, _LOOKS)
        useful = grid[self.sizes_at(grid) <= self.useful]
        first = float(useful[0]) if useful.size else coarsest
        return first, max(first, coarsest)

    def sizes_at(self, logs: Array) -> Array:
        """Return the bytes at logarithms of own prices."""
        sizes: Array = np.exp(-self._bytes_at(logs))
        return sizes

    def harms_at(self, logs: Array) -> Array:
        """Return the harm at logarithms of own prices."""
        harms: Array = np.exp(self._harm_at(logs))
        return harms

    def corrected(self, price: float, size: float, harm: float) -> HarmCurve:
        """Return the curve with a new trial, and the bytes of earlier trials scaled towards it.

        The factor is _MOST_MOVED at most. Harms of earlier trials stay, except that a coarser trial
        does at least as much harm as the new one, and a finer one at most as much. If harms were
        scaled as well, a task that fares well near its cliff would hide the cliff.
        """
        ratio = max(size, _TINY) / max(float(self.sizes_at(np.array([math.log(price)]))[0]), _TINY)
        scale = min(max(ratio, 1 / _MOST_MOVED), _MOST_MOVED)
        bounded = np.where(
            self.prices > price, np.maximum(self.harms, harm), np.minimum(self.harms, harm)
        )
        harms = self.harms if math.isnan(harm) else bounded  # NaN in a trial stays NaN
        others = self.prices != price
        return HarmCurve(
            np.append(self.prices[others], price),
            np.append(scale * self.sizes[others], size),
            np.append(harms[others], harm),
            self.useful,
        )


def rising_line(x: Array, y: Array) -> Callable[[Array], Array]:
    """Return a monotone rising function through points, extrapolated with its end slopes.

    Of several points at one place the first counts.
    """
    at, first = np.unique(x, return_index=True)
    values = y[first]
    between = MonotoneCubic(at, values) if at.size > 1 else None
    slopes = np.clip(np.diff(values) / np.diff(at), 0.0, _STEEPEST)

    def line(x: Array) -> Array:
        inside = np.clip(x, at[0], at[-1])
        if between is None:
            return np.full(x.shape, values[0]) + _SLOPE_OF_ONE * (x - inside)
        beyond = np.where(x < inside, slopes[0], slopes[-1]) * (x - inside)
        total: Array = between(inside) + beyond
        return total

    return line


def _logs(values: Array) -> Array:
    logs: Array = np.log(np.maximum(values, _TINY))
    return logs


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
