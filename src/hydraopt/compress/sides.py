"""Cost and noise of one side of a module's parts, by the way of writing it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.coding.forms import Way
from hydraopt.compress.core import SharedSpace
from hydraopt.compress.curve import noise_of
from hydraopt.linalg.shapes import Array

__all__ = [
    "PART_BITS",
    "BasisPlan",
    "Classes",
    "SideCost",
    "side_costs",
]

Classes = NDArray[np.int64]

PART_BITS: Final = 10.0
"""Side information of a part: an exponent and two spread classes."""


@dataclass(frozen=True)
class BasisPlan:
    """First q directions of a shared space, at these spread classes."""

    space: SharedSpace
    classes: Classes
    bits: float

    @property
    def q(self) -> int:
        return int(self.classes.size)


@dataclass(frozen=True)
class SideCost:
    """Inputs to the cost of one side of all parts, written in one way.

    A part of a shared side is assumed to keep its own direction, as far as the basis can express
    it. This is exact where the basis can, which is where such a side pays.

    length: length of a vector.
    q: size of the basis.
    wider: how many classes finer its coordinates are than a part's spread class says.
    shares (2, P), or (2, 1) for all parts alike: share of a part's energy that the basis cannot
        express, and the noise that the basis's rounding leaves.
    """

    way: Way
    length: int
    q: int
    wider: int
    shares: Array

    @property
    def numbers(self) -> int:
        """Approximate number of values in a part."""
        return self.q if self.way is Way.SHARED else self.length

    @property
    def head(self) -> Classes:
        """Way, length, q and wider."""
        return np.array([self.way, self.length, self.q, self.wider], np.int64)


def side_costs(
    ways: Iterable[Way], length: int, plan: BasisPlan | None, own: Array
) -> dict[Way, SideCost]:
    """Return the costs of one side by way.

    ``own`` (P, q): the parts' vectors in the directions of the basis; without it only the explicit
    way is possible.
    """
    costs = {Way.EXPLICIT: SideCost(Way.EXPLICIT, length, length, 0, np.zeros((2, 1)))}
    if plan is None:
        return costs
    squared = own**2
    lost = np.clip(1 - squared.sum(axis=1), 0, 1)
    shares = np.stack([lost, squared @ noise_of(plan.classes)])
    wider = round(2 * np.log2(length / plan.q))
    for way in ways:
        if way is not Way.EXPLICIT:
            costs[way] = SideCost(way, length, plan.q, wider, shares)
    return costs
