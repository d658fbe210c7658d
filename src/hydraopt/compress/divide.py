"""Divide: bits among the sides of a task's parts, where they take most harm away.

The planner (hydraopt.compress.plan) knows no costs of single parts. Whoever can measure what an
error in each part costs, as hydraopt.harm.costs does, divides the same bits among the same modules
better: each side gets the spread class at which one more bit takes as much harm away as
anywhere else (reverse water-filling, Cover and Thomas 2006, 10.3.3), and a part whose bits take
less away is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hydraopt.compress.curve import FIRST_CLASS, LAST_CLASS, noise_of, rate_of
from hydraopt.compress.recode import Spreads
from hydraopt.compress.sides import PART_BITS
from hydraopt.linalg.shapes import Array

__all__ = ["Division", "PartCosts", "divide"]

_CLASSES: Final = np.arange(FIRST_CLASS, LAST_CLASS + 1)
_HALVINGS: Final = 60
_LEAST, _MOST = 1e-30, 1e30
"""Prices of a bit between which the right one is sought."""


@dataclass(frozen=True)
class PartCosts:
    """Costs of errors in the k parts of a module, (k,) each, all modules in one unit.

    left, right: of noise that is as strong as the side itself. whole: of leaving the part out.
    lengths: numbers of a part in the left and the right side.
    """

    left: Array
    right: Array
    whole: Array
    lengths: tuple[int, int]


class Division(NamedTuple):
    """kept (k,): whether a part is written. spreads: of the kept parts, in order."""

    kept: NDArray[np.bool_]
    spreads: Spreads


def divide(
    costs: Mapping[str, PartCosts], bits: float, missing: float = 1.0
) -> dict[str, Division]:
    """Return the parts and spread classes of each module that cost least in so many bits.

    missing: weight of the cost of parts that are left out.

    The result takes no more than ``bits`` by the tables of hydraopt.compress.curve. Deterministic;
    O(parts).
    """
    low, high = _LEAST, _MOST
    for _ in range(_HALVINGS):
        price = float(np.sqrt(low * high))
        spent = sum(_divided(x, price, missing)[1] for x in costs.values())
        low, high = (price, high) if spent > bits else (low, price)
    return {path: _divided(x, high, missing)[0] for path, x in costs.items()}


def _divided(costs: PartCosts, price: float, missing: float) -> tuple[Division, float]:
    """Return the division of a module at a price of a bit, and its bits."""
    noise, rate = noise_of(_CLASSES), rate_of(_CLASSES)
    least, bits = np.zeros(costs.whole.size), np.full(costs.whole.size, PART_BITS)
    chosen = []
    for cost, length in zip((costs.left, costs.right), costs.lengths, strict=True):
        each = cost[:, None] * noise + price * length * rate
        best = each.argmin(axis=1)
        least += each.min(axis=1)
        bits += length * rate[best]
        chosen.append(_CLASSES[best])
    kept = least + price * PART_BITS < missing * costs.whole
    left, right = (x[kept] for x in chosen)
    return Division(kept, Spreads(left, right)), float(bits[kept].sum())
