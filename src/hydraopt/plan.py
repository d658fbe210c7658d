"""The planner: for one module and one price of a bit, which form, which parts, how fine.

For every task and every permitted pair of ways (hydraopt.parts) the harm D that would remain and
the bits R it would take are estimated from singular values alone; the module takes the bases, and
each task the mode, with the least ``D + price * R``. The price is the one knob theta of the whole
bundle: equal slope everywhere is the optimum (reverse water-filling). D is in units of the task's
weighted squared Frobenius norm, with the measure's weights inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hydraopt.core import ModuleCore, SharedSpace
from hydraopt.curve import FIRST_CLASS, noise_of, part_curve, rate_of
from hydraopt.measure import Measure
from hydraopt.parts import FORMS, Mode, Way
from hydraopt.types import Array

__all__ = ["BasisPlan", "ModulePlan", "TaskPlan", "modes_of", "plan_module"]

_PART_BITS = 10.0
"""Side information of a part: an exponent and two spread classes."""
_RECORD_BITS = 6.0

Classes = NDArray[np.int64]


@dataclass(frozen=True)
class TaskPlan:
    """What one task stores in one module: k parts at these spread classes, written in ``mode``."""

    mode: Mode
    left: Classes
    right: Classes
    harm: float
    bits: float


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
class ModulePlan:
    """Bases of a module (None: no such basis) and the plan of each of its tasks."""

    left: BasisPlan | None
    right: BasisPlan | None
    tasks: tuple[TaskPlan, ...]
    price: float

    @property
    def bits(self) -> float:
        shared = sum(basis.bits for basis in (self.left, self.right) if basis)
        return shared + sum(task.bits for task in self.tasks)

    @property
    def cost(self) -> float:
        return sum(task.harm for task in self.tasks) + self.price * self.bits


def modes_of(forms: Iterable[str]) -> tuple[Mode, ...]:
    """All modes that belong to the named forms."""
    return tuple(mode for form in forms for mode in FORMS[form])


def _basis(space: SharedSpace, length: int, price: float, measure: Measure) -> BasisPlan | None:
    """Directions that pay for their numbers, as if each were a part with a free other side."""
    classes = np.arange(FIRST_CLASS, 80)
    noise, bits = noise_of(classes), length * rate_of(classes) + _PART_BITS
    harm = _harm(noise, measure)
    cost = space.values[:, None] ** 2 * harm + price * bits
    best = cost.argmin(axis=1)
    pays = cost.min(axis=1) < measure.lost * space.values**2
    # Nested: the directions come in falling order, so the first that does not pay ends the basis.
    q = int(pays.size if pays.all() else pays.argmin())
    if q == 0:
        return None
    chosen = classes[best[:q]]
    return BasisPlan(space, chosen, float(bits[best[:q]].sum()) + _RECORD_BITS)


def _harm(noise: Array, measure: Measure) -> Array:
    """Harm of a part of unit energy whose noise is ``noise``, its coefficient well chosen.

    The best coefficient trades lost effect against noise: min over g of lost (1-g)^2 + noise g^2.
    """
    return measure.lost * noise / (measure.lost + noise)


@dataclass(frozen=True)
class _SideView:
    """One side of a task as the estimate needs it: how far the basis explains its vectors."""

    way: Way
    length: int
    coordinates: Array | None
    basis_noise: Array | None

    @property
    def numbers(self) -> int:
        if self.way is Way.SHARED:
            assert self.coordinates is not None
            return int(self.coordinates.shape[1])
        return self.length


def _view(way: Way, length: int, plan: BasisPlan | None, i: int) -> _SideView:
    if way is Way.EXPLICIT or plan is None:
        return _SideView(Way.EXPLICIT, length, None, None)
    return _SideView(way, length, plan.space.coordinates[i][:, : plan.q], noise_of(plan.classes))


def _estimate(
    s: Array, left: _SideView, right: _SideView, price: float, measure: Measure
) -> TaskPlan:
    """Plan one task in one mode; ``s`` are its weighted singular values."""
    if Way.SHARED in (left.way, right.way):
        # Core of the product restricted to what the shared sides can express.
        core = np.diag(s)
        if left.way is Way.SHARED:
            core = _need(left.coordinates).T @ core
        if right.way is Way.SHARED:
            core = core @ _need(right.coordinates)
        a, values, bt = np.linalg.svd(core, full_matrices=False)
        b = bt.T
    else:
        a = b = np.eye(s.size)
        values = s
    energy = values**2
    curve = part_curve(left.numbers, right.numbers, measure.output)
    bits = np.broadcast_to(curve.bits, (values.size, curve.bits.size))
    noise = np.broadcast_to(curve.noise, bits.shape)
    for view, vectors, classes, weight in (
        (left, a, curve.left, 1 / measure.output),
        (right, b, curve.right, 1.0),
    ):
        if view.way is Way.SHARED:
            noise = noise + weight * (vectors.T**2 @ _need(view.basis_noise))[:, None]
        elif view.way is Way.PREDICTED:
            more_bits, more_noise = _predicted(view, vectors, classes, measure)
            bits, noise = bits + more_bits, noise + weight * more_noise
    cost = energy[:, None] * _harm(noise, measure) + price * (bits + _PART_BITS)
    best = cost.argmin(axis=1)
    rows = np.arange(values.size)
    keep = cost[rows, best] < measure.lost * energy
    # Parts come in falling order; keep a prefix so that "the first k" says it all.
    k = int(keep.size if keep.all() else keep.argmin())
    rows, best = rows[:k], best[:k]
    kept_harm = float((energy[:k] * _harm(noise[rows, best], measure)).sum())
    cut = float(energy[k:].sum())
    projected = max(float(s @ s) - float(energy.sum()), 0.0)
    return TaskPlan(
        Mode(left.way, right.way),
        curve.left[best],
        curve.right[best],
        kept_harm + measure.lost * cut + measure.projected * projected,
        float((bits[rows, best] + _PART_BITS).sum()) + _RECORD_BITS,
    )


def _missed(s: Array, view: _SideView) -> float:
    """Energy of a task that a shared side cannot express."""
    if view.way is not Way.SHARED:
        return 0.0
    explained = (_need(view.coordinates) ** 2).sum(axis=1)
    return float(s**2 @ np.clip(1 - explained, 0, 1))


def _need(value: Array | None) -> Array:
    assert value is not None
    return value


def _predicted(
    view: _SideView, vectors: Array, classes: Classes, measure: Measure
) -> tuple[Array, Array]:
    """What prediction changes in bits and noise, (parts, classes), against an explicit side."""
    coordinates = vectors.T @ _need(view.coordinates)
    q = coordinates.shape[1]
    wide = classes + round(2 * np.log2(view.length / q))
    lost = np.clip(1 - (coordinates**2).sum(axis=1), 0, 1)[:, None]
    # The own numbers mend what the rounding of basis and coordinates leaves, too.
    rounding = (coordinates**2 @ _need(view.basis_noise))[:, None] + noise_of(wide)
    missed = lost + rounding
    shift = np.round(2 * np.log2(np.maximum(missed, 1e-9))).astype(np.int64)
    own = np.minimum(classes + shift, classes)
    bits = view.length * (rate_of(own) - rate_of(classes)) + q * rate_of(wide)
    # Too small for its own numbers: then what the basis misses is lost effect, not noise.
    remaining = np.where(
        own >= FIRST_CLASS, noise_of(own) * missed, measure.projected * lost + rounding
    )
    return bits, remaining - noise_of(classes)


def plan_module(
    core: ModuleCore,
    weights: Sequence[float],
    price: float,
    measure: Measure,
    modes: Sequence[Mode],
) -> ModulePlan:
    """The cheapest plan of a module.

    weights: w_t of the module's tasks, so that ``w_t |dW_t|^2`` counts. price: harm a bit may cost.
    modes: those permitted (see :func:`modes_of`); a single form gives that form everywhere.
    """
    spaces = core.spaces(weights) if any(mode.code for mode in modes) else None
    bases: list[BasisPlan | None] = [None, None]
    if spaces:
        lengths = (core.m, core.n)
        bases = [_basis(spaces[i], lengths[i], price, measure) for i in range(2)]
    options: list[ModulePlan] = []
    # Modes without a shared side first: they often rule such a side out before it is worked out.
    possible = sorted(
        (mode for mode in modes if mode.needs_no_more_than(bases[0], bases[1])),
        key=lambda mode: (Way.SHARED in (mode.left, mode.right), mode.code),
    )
    singular = [s * np.sqrt(w) for s, w in zip(core.s, weights, strict=True)]
    plans: list[dict[Mode, TaskPlan]] = []
    for i, s in enumerate(singular):
        found: dict[Mode, TaskPlan] = {}
        best = np.inf
        for mode in possible:
            sides = (
                _view(mode.left, core.m, bases[0], i),
                _view(mode.right, core.n, bases[1], i),
            )
            if measure.projected * max(_missed(s, side) for side in sides) >= best:
                continue
            found[mode] = _estimate(s, *sides, price, measure)
            best = min(best, found[mode].harm + price * found[mode].bits)
        plans.append(found)

    for left, right in ((None, None), (None, bases[1]), (bases[0], None), (bases[0], bases[1])):
        chosen = []
        for found in plans:
            able = [plan for mode, plan in found.items() if mode.needs_no_more_than(left, right)]
            if able:
                chosen.append(min(able, key=lambda plan: plan.harm + price * plan.bits))
        if len(chosen) == len(plans):
            options.append(ModulePlan(left, right, tuple(chosen), price))
    if not options:
        # No basis pays at this price, and no other form is permitted: nothing is stored.
        nothing = np.zeros(0, np.int64)
        empty = tuple(
            TaskPlan(modes[0], nothing, nothing, measure.lost * w * float(s @ s), 0.0)
            for s, w in zip(core.s, weights, strict=True)
        )
        return ModulePlan(None, None, empty, price)
    return min(options, key=lambda plan: plan.cost)
