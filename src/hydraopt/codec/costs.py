"""Cost of errors and of sides in bits: the terms of the planner.

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

RATE and NOISE hold, for each spread class, the bits a number that the coder spends and the noise it
leaves once the bias is undone: 1/rho^2 - 1, with rho the correlation between a number and its
reconstruction. Measured by ``python -m benchmarks.coding tables``. Used by the planner only, never
by a decoder.

The part of the right vectors outside of the initial A is what the task learned. It is written as a
few own directions with coordinates over them. The coordinates keep the inner products with the true
directions, because answers suffer far more from lost weak directions than from noise (docs/log.md).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.codec.core import ModuleCore, SharedSpace
from hydraopt.codec.matrices import Array
from hydraopt.codec.sides import Way
from hydraopt.codec.starts import Drawn
from hydraopt.codec.tables import MAX_SPREAD

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
    from hydraopt.codec.plugins import MEASURE_GROUP, find_registered

    return find_registered("measure", name, MEASURES, MEASURE_GROUP, Measure)


FIRST_CLASS = 13
"""Below this class nearly every number rounds to zero: such a part is not worth its place."""

# fmt: off
_RATE = np.array([
    0.0011, 0.0011, 0.0011, 0.0011, 0.0011, 0.0011, 0.0011, 0.0011, 0.0011, 0.0011, 0.0011, 0.0012,
    0.0842, 0.6057, 0.7967, 0.9932, 1.2204, 1.4691, 1.7063, 1.9442, 2.1819, 2.4209, 2.6545, 2.8925,
    3.1334, 3.3659, 3.6129, 3.856, 4.1026, 4.3667, 4.6046, 4.8487, 5.0893, 5.3422, 5.5806, 5.8313,
    6.0741])
_NOISE = np.array([
    1e9, 1e9, 1e9, 1e9, 1e9, 1e9, 1e9, 1e9, 1e9, 1e9, 1e9, 2.181e+04, 10.89, 0.9763, 0.591, 0.3901,
    0.2565, 0.1692, 0.1155, 0.08011, 0.05614, 0.03961, 0.02823, 0.0201, 0.01427, 0.01028, 0.007265,
    0.005168, 0.003669, 0.002611, 0.00186, 0.001318, 0.0009399, 0.0006666, 0.000476, 0.0003347,
    0.0002387])
# fmt: on
LAST_CLASS = MAX_SPREAD


@functools.cache
def tables() -> tuple[Array, Array]:
    """Return (rates, noises) by spread class, from 0 on."""
    # At high rate each class (a quarter octave of spread) adds a quarter bit and divides the noise
    # by 2^(1/2): the measured tables go on with these slopes.
    more = np.arange(1, LAST_CLASS + 2 - _RATE.size)
    return (
        np.concatenate([_RATE, _RATE[-1] + more / 4]),
        np.concatenate([_NOISE, _NOISE[-1] * 2.0 ** (-more / 2)]),
    )


def rate_of(classes: NDArray[np.int64]) -> Array:
    """Return bits per number at the given spread classes (clipped to the table)."""
    return tables()[0].take(classes, mode="clip")


def noise_of(classes: NDArray[np.int64]) -> Array:
    """Return the relative squared noise, bias undone, at spread classes (clipped to the table)."""
    return tables()[1].take(classes, mode="clip")


@dataclass(frozen=True)
class Curve:
    """Best (bits, noise) of a part whose sides have this many numbers.

    bits: rising; noise: falling, relative to the part's squared singular value, the left side's
    divided by ``output``. left, right: the spread classes that reach them.
    """

    bits: Array
    noise: Array
    left: NDArray[np.int64]
    right: NDArray[np.int64]


@functools.cache
def _side_hull() -> tuple[NDArray[np.int64], Array, Array]:
    """Return the classes on the lower convex hull of (rate, noise), with rates and noises."""
    classes = np.arange(FIRST_CLASS, LAST_CLASS + 1)
    rate, noise = rate_of(classes), noise_of(classes)
    hull: list[int] = []
    for i in range(classes.size):
        while len(hull) > 1:
            p, q = hull[-2], hull[-1]
            before = (noise[q] - noise[p]) * (rate[i] - rate[p])
            if before < (noise[i] - noise[p]) * (rate[q] - rate[p]):
                break
            hull.pop()
        hull.append(i)
    return classes[hull], rate[hull], noise[hull]


@functools.lru_cache(maxsize=4096)
def part_curve(left_numbers: int, right_numbers: int, output: float) -> Curve:
    """Return the best spread classes of both sides, starting with both at the coarsest.

    Both sides' curves are convex, so the best choices refine, one class at a time, the side that
    takes most noise away for a bit.
    """
    classes, rate, noise = _side_hull()
    counted = noise / output
    slopes = np.concatenate(
        [
            np.diff(counted) / (left_numbers * np.diff(rate)),
            np.diff(noise) / (right_numbers * np.diff(rate)),
        ]
    )
    moves = np.argsort(slopes, kind="stable")
    steps = classes.size - 1
    left = np.concatenate([[0], np.cumsum(moves < steps)])
    right = np.concatenate([[0], np.cumsum(moves >= steps)])
    return Curve(
        left_numbers * rate[left] + right_numbers * rate[right],
        counted[left] + noise[right],
        classes[left],
        classes[right],
    )


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


_CLASSES: Final = np.arange(FIRST_CLASS, LAST_CLASS + 1)
_STARTED_RECORD_BITS: Final = 45.0
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
        cost, bits, own = _planned_start(energies, whole, block.n, price, measure)
        without = np.array([place is None for place in drawn])
        cost[without] = np.inf
        numbers = max(x.rows for x in drawn if x) + max(classes.size for classes in own)
        side = SideCost(Way.SHARED, block.n, numbers, 0, np.zeros((2, 1)))
        return StartedPlan(side, cost, bits + _STARTED_RECORD_BITS, own)

    def _energies(self, block: ModuleCore, i: int, place: Drawn) -> Array:
        """Return the energies of the directions outside of a task's initial A, falling."""
        content = block.contents[i]
        if content not in self._outside:
            v, s = block.V[:, block.vectors_of(i)].astype(np.float64), block.s[i]
            within = place.basis(block.n).orthonormal.T @ v
            values = np.linalg.eigvalsh((v.T @ v - within.T @ within) * np.outer(s, s))
            self._outside[content] = np.maximum(values[::-1], 0.0)
        return self._outside[content]


def _planned_start(
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
