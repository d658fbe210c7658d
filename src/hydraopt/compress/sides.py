"""One side of a module's parts: what it costs and what noise it leaves, in each way of writing it.

The planner prices all spread classes with these tables; the estimate of errors looks up those that
it chose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.coding.forms import Way
from hydraopt.compress.core import SharedSpace
from hydraopt.compress.curve import FIRST_CLASS, LAST_CLASS, noise_of, rate_of
from hydraopt.linalg.shapes import Array

__all__ = ["CLASSES", "PART_BITS", "BasisPlan", "Classes", "SideTable", "side_table"]

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


def side_table(way: Way, length: int, plan: BasisPlan | None, own: Array) -> SideTable:
    """Costs of one side; ``own`` (P, q): the parts' vectors in the directions of the basis.

    A part of a shared side is taken to keep its own direction, as far as the basis can express it:
    exact where the basis can, which is where such a side pays.
    """
    rate, noise = rate_of(CLASSES), noise_of(CLASSES)
    if way is Way.EXPLICIT or plan is None:
        return SideTable(length, length * rate[None], noise[None], np.zeros((1, rate.size)))
    squared = own**2
    q = plan.q
    lost = np.clip(1 - squared.sum(axis=1), 0, 1)[:, None]
    rounding = (squared @ noise_of(plan.classes))[:, None]
    if way is Way.SHARED:
        columns = np.broadcast_arrays(q * rate[None], noise + rounding, lost)
        return SideTable(q, *map(np.ascontiguousarray, columns))
    wide = CLASSES + round(2 * np.log2(length / q))
    # The own numbers mend what the rounding of basis and coordinates leaves, too.
    within = rounding + noise_of(wide)
    shift = np.round(2 * np.log2(np.maximum(lost + within, 1e-9))).astype(np.int64)
    finer = np.minimum(CLASSES + shift, CLASSES)
    bits = length * rate_of(finer) + q * rate_of(wide)
    # One coefficient scales prediction and own numbers alike, so it cannot undo the shrinking of
    # the own ones alone: of what the basis misses a share is lost effect, and the rest is noise.
    # Where own numbers are too small to be written, all of it is lost.
    share = np.where(finer >= FIRST_CLASS, noise_of(finer) / (1 + noise_of(finer)), 1.0)
    remaining = share * within + lost * share * (1 - share)
    return SideTable(length, bits, remaining, lost * share**2)
