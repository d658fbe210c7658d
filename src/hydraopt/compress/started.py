"""Started sides: plan which own directions a task writes beside its initial A, and their cost.

The part of the right vectors outside of the initial A is what the task learned. It is written as a
few own directions with coordinates over them. The coordinates keep the inner products with the true
directions, because answers suffer far more from lost weak directions than from noise (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from hydraopt.coding.forms import Way
from hydraopt.compress.core import ModuleCore
from hydraopt.compress.curve import FIRST_CLASS, LAST_CLASS, noise_of, rate_of
from hydraopt.compress.measure import Measure
from hydraopt.compress.sides import PART_BITS, Classes, SideCost
from hydraopt.linalg.shapes import Array
from hydraopt.linalg.start import Drawn

__all__ = ["StartedPlan", "Starts"]

_CLASSES: Final = np.arange(FIRST_CLASS, LAST_CLASS + 1)
_RECORD_BITS: Final = 45.0
"""Place and rows of an initial A, and the number of own directions."""


@dataclass(frozen=True)
class StartedPlan:
    """Plan of the right sides of the tasks of a block, written over their initial A.

    side: cost of the coordinates.
    cost, bits (T,): of each task's own directions. The cost includes the directions that are left
        out, and is infinite for a task without an initial A.
    own: spread classes of each task's own directions, strongest first.
    """

    side: SideCost
    cost: Array
    bits: Array
    own: tuple[Classes, ...]


@dataclass
class Starts:
    """Initial A of a module's tasks that have a start, by content.

    None if the start of a task does not reach this module.
    """

    drawn: Mapping[int, Drawn | None] = field(default_factory=dict)
    _outside: dict[int, Array] = field(default_factory=dict)

    def here(self, content: int) -> Drawn | None:
        """Return a task's initial A in this module."""
        return self.drawn.get(content)

    def plan(
        self, block: ModuleCore, weights: Array, price: float, measure: Measure
    ) -> StartedPlan | None:
        """Return the plan of a block's started sides; None if no task has an initial A.

        weights (T,): of the tasks' squared errors.
        """
        drawn = [self.here(content) for content in block.contents]
        if not any(drawn):
            return None
        energies = np.zeros((len(drawn), max(s.size for s in block.s)))
        whole = weights * [float(s @ s) for s in block.s]
        for i, place in enumerate(drawn):
            if place is not None:
                outside = self._energies(block, i, place)
                energies[i, : outside.size] = weights[i] * outside
        cost, bits, own = _planned(energies, whole, block.n, price, measure)
        without = np.array([place is None for place in drawn])
        cost[without] = np.inf
        numbers = max(x.rows for x in drawn if x) + max(classes.size for classes in own)
        side = SideCost(Way.SHARED, block.n, numbers, 0, np.zeros((2, 1)))
        return StartedPlan(side, cost, bits + _RECORD_BITS, own)

    def _energies(self, block: ModuleCore, i: int, place: Drawn) -> Array:
        """Return the energies of the directions outside of a task's initial A, falling."""
        content = block.contents[i]
        if content not in self._outside:
            v, s = block.V[:, block.vectors_of(i)].astype(np.float64), block.s[i]
            within = place.basis(block.n).orthonormal.T @ v
            values = np.linalg.eigvalsh((v.T @ v - within.T @ within) * np.outer(s, s))
            self._outside[content] = np.maximum(values[::-1], 0.0)
        return self._outside[content]


def _planned(
    energies: Array, whole: Array, length: int, price: float, measure: Measure
) -> tuple[Array, Array, tuple[Classes, ...]]:
    """Return the costs, bits and classes of own directions with these energies, (T, r), falling.

    whole (T,): energies of the tasks.
    """
    bits = length * rate_of(_CLASSES) + PART_BITS
    cost = energies[:, :, None] * noise_of(_CLASSES)
    best = (cost + price * bits).argmin(axis=2)
    least = np.take_along_axis(cost, best[:, :, None], 2)[:, :, 0]
    left_out = measure.left_outside(energies, whole)
    taken = np.logical_and.accumulate(least + price * bits[best] < left_out, axis=1)
    return (
        np.where(taken, least, left_out).sum(axis=1),
        np.where(taken, bits[best], 0.0).sum(axis=1),
        tuple(_CLASSES[row[some]] for row, some in zip(best, taken, strict=True)),
    )
