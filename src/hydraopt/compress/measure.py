"""Cost of an error: the one place where the planner's cost is defined.

A part of a task's dW in a module, of squared norm E, is kept in the share ``kept`` and has noise of
N E. Its cost is

    E (kept min_g [lost (1-g)^2 + N g^2] + projected (1 - kept)),    N = left / output + right,

with g its coefficient, whose best choice trades lost effect against noise; a part that is left out
has the cost ``lost E``. The constants are a Measure's; loops.c computes it for the planner.

Equal Frobenius error is not equal harm. Noise that is independent of the adapter hardly moves the
test loss; losing a share of what the adapter does moves it far more; noise on the output side (U s)
hurts about half as much as noise on the input side; and keys and values, which several query heads
share, are the most sensitive modules (docs/log.md). A measure says how the planner weighs these,
and in which inner product the encoder fits what it can still choose once one side is rounded.
Everything else in hydraopt is the same for all measures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from hydraopt.linalg.shapes import Array

__all__ = [
    "MEASURES",
    "OF_THE_WHOLE",
    "Measure",
    "measure_named",
]


OF_THE_WHOLE: Final = 50.0
"""Weight of the error of a tensor that replaces the base model's (a head, an embedding, a norm).
A relative error e of all of it counts as much as one of 7 e of the low-rank change
(docs/log.md)."""


@dataclass(frozen=True)
class Measure:
    """Weights of the kinds of error, all relative to noise on the input side.

    name: what the bundle's recipe records.
    lost: a unit of squared error that is lost effect (a part left out) counts this much.
    projected: the same for what a basis shared by all tasks cannot express. It is small in norm and
        is what the task learned away from the others, along the inputs that it really has.
    outside: most that a unit of squared error counts for a direction outside of the initial A that
        a started side leaves out; see :meth:`left_outside`.
    unbiased: how strictly ``<dW~, dW>`` is held to ``<dW, dW>`` when the coefficients and the left
        side are fitted to the rounded right side: the product is ``I + (unbiased - 1) P`` with P
        the projector on the adapter's own row (column) space. 1 is least squares, which shrinks.
    output: noise on the output side counts 1/output.
    relative: how far a task's error counts relative to the size of its dW: w_t = importance_t /
        |dW_t|^(2 relative). 1 makes relative errors count alike, 0 the errors themselves: what a
        base model's outputs are moved by is the error, whatever the size of what it is an error of.
    farthest: norms further from the median than by this factor count as if they were at it, so that
        no adapter is given up for being small.
    kinds: by the last name of a module's path, how much a squared error counts there; 1 for others.
    grouped: names of modules whose output several query heads share; theirs counts as many times.
    """

    name: str
    lost: float
    projected: float
    unbiased: float
    output: float
    outside: float = 1.0
    relative: float = 1.0
    farthest: float = math.inf
    kinds: Mapping[str, float] = field(default_factory=dict)
    grouped: tuple[str, ...] = ()

    def cost(self, energy: Array, noise: Array) -> Array:
        """Return the cost of parts that are kept whole. noise: relative and squared, both sides."""
        cost: Array = energy * (self.lost * noise / (self.lost + noise))
        return cost

    def left_out(self, energy: Array) -> Array:
        """Return the cost of leaving out parts of these squared norms."""
        return self.lost * energy

    def left_outside(self, energies: Array, whole: Array) -> Array:
        """Return the cost of leaving out directions outside of an initial A, (T, r).

        With x the share of a task's energy that lies outside, a unit of energy counts
        ``lost / x^(3/2)``, at most ``outside``. For x = 1 that is the weight of any lost effect. It
        rises as x falls, because the part outside then holds more of what the task learned per
        unit of energy. Of the powers tried, 3/2 did best for adapters with x from 0.13 to 0.26 and
        from 0.39 to 0.63 (docs/log.md).

        energies (T, r): of the directions. whole (T,): energies of the tasks.
        """
        least = (self.lost / self.outside) ** (2 / 3)
        share = np.maximum(energies.sum(axis=1) / np.where(whole > 0, whole, 1.0), least)
        cost: Array = energies * (self.lost / share**1.5)[:, None]
        return cost


MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure("frobenius", lost=1, projected=1, unbiased=1, output=1),
        Measure(
            "bias-aware",
            lost=2,
            projected=5,
            unbiased=300,
            output=2,
            outside=20,
            relative=0.5,
            farthest=2,
            kinds={"o_proj": 2.0},
            grouped=("k_proj", "v_proj"),
        ),
    )
}
"""Measures by name. "bias-aware" is the default: it recovers most (docs/decisions.md)."""


def measure_named(name: str) -> Measure:
    """Return the measure of that name, which another package may register as an entry point.

    Raises UsageError for a name that nobody has, PluginError for an entry point that is broken.
    """
    from hydraopt import plugins

    return plugins.find("measure", name, MEASURES, plugins.MEASURES, Measure)
