"""Own prices for all streams, from their curves: equal slope or equal harm for a size, or a limit.

For a size the sum over streams of what is counted is lowered at a given number of bytes: with one
multiplier for all, each stream takes the price at which harm + multiplier * bytes is least. What is
counted of a share p of answers is -log(1 - p): about p where p is small, and more the fewer answers
are left. Answers lost seldom pass a half, so that at very small sizes tasks are given up for others
all the same.

Fair is the other way to share a size out: what counts most of any stream is lowered, which makes
all alike as far as their curves reach.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from hydraopt.linalg.shapes import Array
from hydraopt.merging.harm.curves import HarmCurve

__all__ = ["counted", "prices_for_limit", "prices_for_size", "prices_if_fair"]

_STEPS: Final = 400
"""Prices that are tried of each stream."""
_HALVINGS: Final = 60
_CERTAIN: Final = 0.98
"""The share of answers that change beyond which more is not told apart."""


def counted(shares: Array) -> Array:
    """What shares of answers that change count, of the same shape."""
    count: Array = -np.log1p(-np.minimum(shares, _CERTAIN))
    return count


def prices_for_size(
    curves: Sequence[HarmCurve], importance: Array, size: float, shares: bool
) -> Array:
    """Own prices, (streams,), at which the curves say that all streams take ``size`` bytes together
    and importance times what harm counts is least.

    importance: (streams,). shares: whether harm is a share of answers, not a KL.
    """
    grids, sizes, costs = _tables(curves, importance, shares)

    def chosen(log: float) -> Array:
        best: Array = (costs + np.exp(log) * sizes).argmin(axis=1)
        return best

    return _least(chosen, 80.0, grids, sizes, size)


def prices_if_fair(
    curves: Sequence[HarmCurve], importance: Array, size: float, shares: bool
) -> Array:
    """Own prices, (streams,), at which the curves say that all streams take ``size`` bytes together
    and the largest of importance times what harm counts is least.

    Arguments as of :func:`prices_for_size`.
    """
    grids, sizes, costs = _tables(curves, importance, shares)
    costs = np.maximum.accumulate(costs, axis=1)

    def within(log: float) -> Array:
        """The coarsest of each that counts at most so much; the finest where none does."""
        most: Array = np.maximum((costs <= np.exp(log)).sum(axis=1) - 1, 0)
        return most

    return _least(within, 40.0, grids, sizes, size)


def _least(
    places: Callable[[float], Array], reach: float, grids: Array, sizes: Array, size: float
) -> Array:
    """The prices at the least logarithm, of -reach to reach, whose places in the rows of ``grids``
    take at most ``size`` bytes; bytes fall as it grows."""
    rows = np.arange(len(grids))
    low, high = -reach, reach
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        fits = sizes[rows, places(middle)].sum() <= size
        low, high = (low, middle) if fits else (middle, high)
    prices: Array = np.exp(grids[rows, places(high)])
    return prices


def _tables(
    curves: Sequence[HarmCurve], importance: Array, shares: bool
) -> tuple[Array, Array, Array]:
    """Logarithms of own prices that are tried, bytes there and what harm counts there, each
    (streams, _STEPS)."""
    grids = np.stack([np.linspace(*curve.range, _STEPS) for curve in curves])
    sizes = np.stack([curve.sizes(grid) for curve, grid in zip(curves, grids, strict=True)])
    harms = np.stack([curve.harms(grid) for curve, grid in zip(curves, grids, strict=True)])
    return grids, sizes, importance[:, None] * (counted(harms) if shares else harms)


def prices_for_limit(curves: Sequence[HarmCurve], limit: float) -> Array:
    """The highest own prices, (streams,), up to which each curve's harm stays within ``limit``; the
    lowest that its curve tells of where none does."""
    prices = np.empty(len(curves))
    for i, curve in enumerate(curves):
        grid = np.linspace(*curve.range, _STEPS)
        within = np.flatnonzero(curve.harms(grid) <= limit)
        prices[i] = np.exp(grid[within[-1] if within.size else 0])
    return prices
