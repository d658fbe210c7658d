"""Own prices for all streams, from their curves: equal slope or equal harm for a size, or a limit.

For a size, the sum of the streams' costs is minimised at a given number of bytes: with one
multiplier for all streams, each stream takes the price at which cost + multiplier * bytes is least.
A task that loses a share M of its answers with the base model alone, and a share p as coded, costs
M x / (1 - x), x = p / M. This is about p if little is lost, and up to 49 M if nothing of the
adapter is left, so that no task is given up for a small gain. The cost does not grow further, so a
size that is too small for all tasks gives some of them up.

Measurements on two dozen prompts per task are noisy, and the least sum favours the curves with the
most noise. So prices move only part of the way from those without prompts (James and Stein 1961).

With "fair", x / (1 - x) or the KL of the worst stream is minimised instead, which makes all streams
equal as far as their curves reach.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from hydraopt.harm.curves import HarmCurve
from hydraopt.linalg.shapes import Array

__all__ = [
    "Costs",
    "costs_of",
    "part_of_the_way",
    "prices_for_limit",
    "prices_for_size",
    "prices_if_fair",
]

_STEPS: Final = 400
"""Number of prices tried for each stream."""
_HALVINGS: Final = 60
_FARTHEST: Final = 80.0
"""Largest shift, in log price, when all prices are moved together."""
_NARROWEST: Final = 1e-9
"""Minimum width, in log price, of a curve's range, for a curve with a single price."""
TRUSTED_HALF: Final = 24
"""Number of answers at which measured harm gets half the weight.
With 24 answers of a task, going half the way harms fresh answers as little as going all of it,
and takes less from tasks whose harm the answers miss (docs/log.md)."""
_CERTAIN: Final = 0.98
"""Largest share of the possible loss; higher shares count as this one."""
_LEAST: Final = 0.01
"""Minimum share of the answers that an adapter is assumed to improve.
Dozens of prompts cannot resolve less, and a task with next to no gain would lose all of it."""


Costs = Callable[[Array], Array]
"""Cost of harms (streams, N), in the same shape."""


def costs_of(importance: Array, most: Array | None, fair: bool = False) -> Costs:
    """Return the function that turns harms into costs.

    importance (streams,): weight of each stream.
    most (streams,): share of its answers that each stream loses without its adapter; None if harm
        is a KL, which counts as it is.
    fair: whether costs are relative to the most that each stream can lose.
    """

    def costs(harms: Array) -> Array:
        weights = importance[:, None]
        if most is None:
            weighted: Array = weights * harms
            return weighted
        losable = np.maximum(most[:, None], _LEAST)
        shares = np.minimum(harms / losable, _CERTAIN)
        counts: Array = weights * shares / (1 - shares) * (1.0 if fair else losable)
        return counts

    return costs


def prices_for_size(curves: Sequence[HarmCurve], costs: Costs, size: float) -> Array:
    """Return the own prices, (streams,), with the least total cost at a size.

    size: bytes that all streams take together, as their curves say.
    """
    grids, sizes, harms = _tables(curves)
    table = costs(harms)

    def chosen(log: float) -> Array:
        best: Array = (table + np.exp(log) * sizes).argmin(axis=1)
        return best

    return _least(chosen, 80.0, grids, sizes, size)


def part_of_the_way(
    curves: Sequence[HarmCurve], told: Array, plain: Array, answers: Array, size: float
) -> Array:
    """Return own prices, (streams,), between ``plain`` and ``told``, in logarithms, at a size.

    plain: prices without prompts, up to a common factor.
    told: prices from measured harm.
    answers: number of answers behind each curve. TRUSTED_HALF of them go half the way.
    size: bytes that all streams take together, as their curves say.
    """
    trust = answers / (answers + TRUSTED_HALF)
    grids, sizes, _ = _tables(curves)
    start = _at_size(grids, sizes, np.log(plain), size)
    between = start + trust * (np.log(told) - start)
    prices: Array = np.exp(_at_size(grids, sizes, between, size))
    return prices


def _at_size(grids: Array, sizes: Array, logs: Array, size: float) -> Array:
    """Return logarithms of prices that are moved together, within their curves, to a size.

    grids, sizes: as of :func:`_tables`.
    """
    rows, finest, coarsest = np.arange(len(grids)), grids[:, 0], grids[:, -1]
    steps = np.maximum(coarsest - finest, _NARROWEST) / (_STEPS - 1)

    def moved(by: float) -> Array:
        there: Array = np.clip(logs + by, finest, coarsest)
        return there

    def fits(by: float) -> bool:
        places = (moved(by) - finest) / steps
        left = np.minimum(places.astype(np.int64), _STEPS - 2)
        between = places - left
        taken = (1 - between) * sizes[rows, left] + between * sizes[rows, left + 1]
        return bool(taken.sum() <= size)

    low, high = -_FARTHEST, _FARTHEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return moved(high)


def prices_if_fair(curves: Sequence[HarmCurve], costs: Costs, size: float) -> Array:
    """Return the own prices, (streams,), with the least largest cost at a size.

    costs: relative to the most that each stream can lose.
    size: bytes that all streams take together, as their curves say.
    """
    grids, sizes, harms = _tables(curves)
    table = np.maximum.accumulate(costs(harms), axis=1)

    def within(log: float) -> Array:
        """Return the coarsest place of each row within this cost, else the finest."""
        most: Array = np.maximum((table <= np.exp(log)).sum(axis=1) - 1, 0)
        return most

    return _least(within, 40.0, grids, sizes, size)


def _least(
    places: Callable[[float], Array], reach: float, grids: Array, sizes: Array, size: float
) -> Array:
    """Return the prices at the least logarithm whose places take at most ``size`` bytes.

    places: rows' places in ``grids`` by a logarithm from -reach to reach. Bytes fall as it grows.
    """
    rows = np.arange(len(grids))
    low, high = -reach, reach
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        fits = sizes[rows, places(middle)].sum() <= size
        low, high = (low, middle) if fits else (middle, high)
    prices: Array = np.exp(grids[rows, places(high)])
    return prices


def _tables(curves: Sequence[HarmCurve]) -> tuple[Array, Array, Array]:
    """Return logarithms of prices to try, and bytes and harm there, each (streams, _STEPS)."""
    grids = np.stack([np.linspace(*curve.range, _STEPS) for curve in curves])
    sizes = np.stack([curve.sizes_at(grid) for curve, grid in zip(curves, grids, strict=True)])
    harms = np.stack([curve.harms_at(grid) for curve, grid in zip(curves, grids, strict=True)])
    return grids, sizes, harms


def prices_for_limit(curves: Sequence[HarmCurve], limit: float) -> Array:
    """Return the highest own prices, (streams,), at which curves are within a limit on harm.

    A stream that is nowhere within the limit gets the lowest price of its curve.
    """
    prices = np.empty(len(curves))
    for i, curve in enumerate(curves):
        grid = np.linspace(*curve.range, _STEPS)
        within = np.flatnonzero(curve.harms_at(grid) <= limit)
        prices[i] = np.exp(grid[within[-1] if within.size else 0])
    return prices
