"""One side of a module's parts: what it costs and what noise it leaves, in each way of writing it.

The planner prices all spread classes with these tables; the estimate of errors looks up those that
it chose.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.coding.forms import Way
from hydraopt.compiled import njit
from hydraopt.compress.core import SharedSpace
from hydraopt.compress.curve import FIRST_CLASS, LAST_CLASS, noise_of, tables
from hydraopt.linalg.shapes import Array

__all__ = [
    "CLASSES",
    "PART_BITS",
    "BasisPlan",
    "Classes",
    "SideCost",
    "SideTable",
    "side_at",
    "side_costs",
    "side_table",
]

Classes = NDArray[np.int64]

CLASSES: Final[Classes] = np.arange(FIRST_CLASS, LAST_CLASS + 1)
"""The spread classes of a table's columns."""
PART_BITS: Final = 10.0
"""Side information of a part: an exponent and two spread classes."""


@dataclass(frozen=True)
class BasisPlan:
    """The first q directions of a shared space, at these spread classes."""

    space: SharedSpace
    classes: Classes
    bits: float

    @property
    def q(self) -> int:
        return int(self.classes.size)


@dataclass(frozen=True)
class SideCost:
    """What the costs of one side of all parts, written in one way, follow from.

    A part of a shared side is taken to keep its own direction, as far as the basis can express it:
    exact where the basis can, which is where such a side pays.
    length: of a vector. q: of the basis; wider: how many classes finer its coordinates are than a
    part's spread class says. lost, rounding (P,), or (1,) for all parts alike: what of a part's
    energy the basis cannot express, and what noise its rounding leaves.
    """

    way: Way
    length: int
    q: int
    wider: int
    lost: Array
    rounding: Array

    @property
    def numbers(self) -> int:
        """How many a part holds, about."""
        return self.q if self.way is Way.SHARED else self.length

    @property
    def packed(self) -> tuple[int, int, int, int, Array, Array]:
        """For compiled code."""
        return int(self.way), self.length, self.q, self.wider, self.lost, self.rounding


_NONE: Final = np.zeros(1)


def side_costs(ways: Iterable[Way], length: int, plan: BasisPlan | None, own: Array) -> Costs:
    """Costs of one side by way; ``own`` (P, q): the parts' vectors in the directions of the basis,
    without which no other way than an explicit one is possible."""
    costs = {Way.EXPLICIT: SideCost(Way.EXPLICIT, length, length, 0, _NONE, _NONE)}
    if plan is None:
        return costs
    squared = own**2
    lost = np.clip(1 - squared.sum(axis=1), 0, 1)
    rounding = squared @ noise_of(plan.classes)
    wider = round(2 * np.log2(length / plan.q))
    for way in ways:
        if way is not Way.EXPLICIT:
            costs[way] = SideCost(way, length, plan.q, wider, lost, rounding)
    return costs


Costs = dict[Way, SideCost]


@njit(cache=True, nogil=True, inline="always")
def clipped(table: Array, index: int) -> float:
    """An entry, or the one at the nearer end."""
    return float(table[min(max(index, 0), table.size - 1)])


@njit(cache=True, nogil=True, inline="always")
def side_at(
    side: tuple[int, int, int, int, Array, Array],
    part: int,
    spread: int,
    rates: Array,
    noises: Array,
) -> tuple[float, float, float]:
    """Bits of one side of a part at a spread class; its noise, relative to the part's energy; and
    what of that energy is lost effect that no coefficient brings back.

    side: a packed SideCost. rates, noises: by class.
    """
    way, length, q, wider, lost, rounding = side
    if way == 0:
        return length * clipped(rates, spread), clipped(noises, spread), 0.0
    of = part % lost.size
    if way == 1:
        return q * clipped(rates, spread), clipped(noises, spread) + rounding[of], lost[of]
    # The own numbers mend what the rounding of basis and coordinates leaves, too.
    within = rounding[of] + clipped(noises, spread + wider)
    shift = int(np.rint(2 * np.log2(max(lost[of] + within, 1e-9))))
    finer = min(spread + shift, spread)
    bits = length * clipped(rates, finer) + q * clipped(rates, spread + wider)
    # One coefficient scales prediction and own numbers alike, so it cannot undo the shrinking of
    # the own ones alone: of what the basis misses a share is lost effect, and the rest is noise.
    # Where own numbers are too small to be written, all of it is lost.
    noise = clipped(noises, finer)
    share = noise / (1 + noise) if finer >= FIRST_CLASS else 1.0
    remaining = share * within + lost[of] * share * (1 - share)
    return bits, remaining, lost[of] * share**2


def side_table(way: Way, length: int, plan: BasisPlan | None, own: Array) -> SideTable:
    """The costs of one side at all spread classes; arguments as for :func:`side_costs`."""
    cost = side_costs([way], length, plan, own).get(way)
    if cost is None:
        cost = side_costs([], length, None, own)[Way.EXPLICIT]
    return SideTable(cost.numbers, *_filled(cost.packed, cost.lost.size, CLASSES, *tables()))


@njit(cache=True, nogil=True)
def _filled(
    side: tuple[int, int, int, int, Array, Array],
    parts: int,
    classes: Classes,
    rates: Array,
    noises: Array,
) -> tuple[Array, Array, Array]:
    bits, noise, lost = (
        np.empty((parts, classes.size)),
        np.empty((parts, classes.size)),
        np.empty((parts, classes.size)),
    )
    for part in range(parts):
        for i in range(classes.size):
            bits[part, i], noise[part, i], lost[part, i] = side_at(
                side, part, classes[i], rates, noises
            )
    return bits, noise, lost


@dataclass(frozen=True)
class SideTable:
    """What one side of every part would cost, written in one way.

    numbers: how many a part holds. bits, noise, lost: (P, C), or (1, C) for all parts alike, with C
    spread classes: bits; noise, relative to the part's energy; and what of the part's energy is
    lost effect that no coefficient brings back.
    """

    numbers: int
    bits: Array
    noise: Array
    lost: Array

    def at(self, parts: Classes, classes: Classes) -> tuple[Array, Array]:
        """Noise and lost effect of some parts, (k,) indices, each at its spread class, (k,)."""
        column = classes - FIRST_CLASS
        noise, lost = (x[parts % len(x), column] for x in (self.noise, self.lost))
        return noise, lost
