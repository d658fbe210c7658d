"""Planner: choose forms, parts and rounding for one module at one price of a bit.

For every task and every permitted mode (hydraopt.codec.sides) the cost D that would
remain and the bits R it would take are estimated from singular values alone; the module takes the
bases, and each task the mode, with the least ``D + price * R``. The price is the one knob theta of
the whole bundle: equal slope everywhere is the optimum (reverse water-filling). D is in units of
the task's weighted squared Frobenius norm, with the measure's weights inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from hydraopt.codec import loops
from hydraopt.codec.blocks import AnyCore
from hydraopt.codec.core import Family, ModuleCore, SharedSpace
from hydraopt.codec.costs import (
    FIRST_CLASS,
    LAST_CLASS,
    PART_BITS,
    BasisPlan,
    Classes,
    Measure,
    SideCost,
    StartedPlan,
    Starts,
    noise_of,
    part_curve,
    rate_of,
    side_costs,
    tables,
)
from hydraopt.codec.matrices import Array, Bases
from hydraopt.codec.sides import FORMS, PRIVATE, Mode, Way
from hydraopt.codec.stream import MOST_NUMBERS

_RECORD_BITS = 6.0
_WORTH = 0.03
"""Minimum saving by a family's bases, as a share of a module's cost.
Coarsely coded parts save less, and what they predict costs more than estimated (docs/log.md)."""
_END_OF_BASES = 80
"""Directions are rounded to less than this class, 2^16 steps: no part that is coded over them needs
a finer one."""


_NO_CLASSES = np.zeros(0, np.int64)


@dataclass(frozen=True)
class TaskPlan:
    """Plan for one task in one module: k parts at these spread classes, written in ``mode``.

    own: spread classes of the own directions of a started side.
    """

    mode: Mode
    left: Classes
    right: Classes
    cost: float
    bits: float
    own: Classes = field(default_factory=lambda: _NO_CLASSES)


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

    def of(self, tasks: slice) -> ModulePlan:
        """Return the plan of some of the tasks, over the same bases."""
        return replace(self, tasks=self.tasks[tasks])

    @property
    def total(self) -> float:
        return sum(task.cost for task in self.tasks) + self.price * self.bits


def modes_of(forms: Iterable[str]) -> tuple[Mode, ...]:
    """Return all modes that belong to the named forms, each once."""
    return tuple(dict.fromkeys(mode for form in forms for mode in FORMS[form]))


def _basis(space: SharedSpace, length: int, price: float, measure: Measure) -> BasisPlan | None:
    """Plan the directions that pay for their numbers, up to the size of a block.

    Each counts as a part with a free other side.
    """
    classes = np.arange(FIRST_CLASS, _END_OF_BASES)
    energy = space.values**2
    bits = length * rate_of(classes) + PART_BITS
    cost = measure.cost(energy[:, None], noise_of(classes))
    total = cost + price * bits
    best = total.argmin(axis=1)
    pays = total.min(axis=1) < measure.left_out(energy)
    # Nested: the directions come in falling order, so the first that does not pay ends the basis.
    q = min(int(pays.size if pays.all() else pays.argmin()), MOST_NUMBERS // length)
    if q == 0:
        return None
    chosen = classes[best[:q]]
    return BasisPlan(space, chosen, float(bits[best[:q]].sum()) + _RECORD_BITS)


def _planned(
    core: AnyCore,
    weights: Sequence[float],
    price: float,
    measure: Measure,
    given: Bases | None,
    needed: bool,
    family: Family | None = None,
) -> list[BasisPlan | None]:
    """Plan both bases, left and right.

    Given bases cost nothing more and are not rounded again. needed: nothing can be stored without
    bases. family: tasks whose directions the bases cover, in place of all.
    """
    if given is None:
        lengths = (core.m, core.n)
        spaces = core.spaces(weights, needed, family)
        return [_basis(space, lengths[side], price, measure) for side, space in enumerate(spaces)]
    return [
        BasisPlan(core.over(basis, side), np.full(basis.q, LAST_CLASS, np.int64), 0.0)
        if basis is not None and basis.q
        else None
        for side, basis in zip(("left", "right"), given, strict=True)
    ]


@dataclass(frozen=True)
class _Parts:
    """Parts of all tasks of a module, P in all, initially each task's own.

    s (P,): weighted singular values, falling within a task. edges (tasks + 1,): where each task's
    begin.
    """

    s: Array
    edges: NDArray[np.int64]

    @classmethod
    def of(cls, values: Sequence[Array], weights: Sequence[float]) -> _Parts:
        """Make parts of the tasks' singular values and the weights of their squared errors."""
        singular = [s * np.sqrt(w) for s, w in zip(values, weights, strict=True)]
        return cls(np.concatenate(singular), np.cumsum([0, *(s.size for s in singular)]))


@dataclass(frozen=True)
class _Priced:
    """All parts in one mode at the best classes.

    left, right (P,): spread classes, in the order in which a task's parts are written. count, cost,
    bits: (tasks,). own: spread classes of each task's own directions; empty if no side is started.
    """

    left: Classes
    right: Classes
    count: NDArray[np.int64]
    cost: Array
    bits: Array
    own: tuple[Classes, ...] = ()

    def started(self, plan: StartedPlan) -> _Priced:
        """Return the parts with the tasks' own directions, unless a task keeps no part."""
        # The cost of a task without an initial A is infinite even then: it cannot be started.
        some = (self.count > 0) | np.isinf(plan.cost)
        cost, bits = self.cost + np.where(some, plan.cost, 0), self.bits + some * plan.bits
        return replace(self, cost=cost, bits=bits, own=plan.own)


def _priced(
    parts: _Parts, left: SideCost, right: SideCost, price: float, measure: Measure
) -> _Priced:
    """Return the two best classes of every part, and which parts pay."""
    curve = part_curve(left.numbers, right.numbers, measure.output)
    weighed = measure.lost, measure.projected, measure.output, price, PART_BITS, _RECORD_BITS
    count, tasks = parts.s.size, parts.edges.size - 1
    classes, counts = np.empty((2, count), np.int64), np.zeros(tasks, np.int64)
    sums = np.zeros((2, tasks))
    priced, orders = np.empty((3, count)), np.empty((2, count), np.int64)
    loops.price_mode(
        parts.s**2,
        parts.edges,
        left.head,
        left.shares,
        curve.left,
        right.head,
        right.shares,
        curve.right,
        *tables(),
        np.array(weighed, np.float64),
        priced,
        orders,
        classes,
        counts,
        sums,
    )
    return _Priced(classes[0], classes[1], counts, sums[0], sums[1])


def plan_module(
    core: AnyCore,
    weights: Sequence[float],
    price: float,
    measure: Measure,
    modes: Sequence[Mode],
    given: Bases | None = None,
    starts: Starts | None = None,
) -> ModulePlan:
    """Return the cheapest plan of a module.

    weights: w_t of the module's tasks, so that ``w_t |dW_t|^2`` counts. price: cost of error that
    a bit is worth.
    modes: those permitted (see :func:`modes_of`); a single form gives that form everywhere.
    given: bases that are there already, in place of such as would pay for themselves.
    starts: initial A of the tasks; None if no task has one.
    """
    if starts is None:
        modes = [mode for mode in modes if mode.right is not Way.STARTED]
    shared = any(x in (Way.SHARED, Way.PREDICTED) for mode in modes for x in mode)
    needed = PRIVATE not in modes
    about = weights, price, measure
    bases: Sequence[BasisPlan | None] = (None, None)
    if shared:
        bases = _planned(core, *about, given, needed)
    over_all = _over(core, *about, modes, bases, given is not None, starts)
    if not shared or needed or given is not None:
        return over_all
    best: ModulePlan | None = None
    for family in core.families:
        bases = _planned(core, *about, None, needed, family)
        plan = _over(core, *about, modes, bases, False, starts)
        if best and plan.total >= best.total:
            break  # larger ones would cost more still
        best = plan
    return best if best and best.total < (1 - _WORTH) * over_all.total else over_all


def _over(
    core: AnyCore,
    weights: Sequence[float],
    price: float,
    measure: Measure,
    modes: Sequence[Mode],
    bases: Sequence[BasisPlan | None],
    given: bool,
    starts: Starts | None = None,
) -> ModulePlan:
    """Return the cheapest plan over these bases, or some of them. given: they exist in any case."""
    possible = [mode for mode in modes if mode.needs_no_more_than(*bases)]
    if not possible:
        # No basis pays at this price, and no other form is permitted: nothing is stored.
        return _nothing(_Parts.of(core.s, weights), modes[0], price, measure)
    offers = [
        _offered(block, weights[tasks], bases, possible, price, measure, starts)
        for block, tasks in map(core.block, range(core.count))
    ]
    costs = np.concatenate([offer.totals(price) for offer in offers], axis=1)
    left, right, chosen = _chosen(bases, possible, costs, price, given)
    modes_of_tasks = iter(chosen)
    tasks = [task for offer in offers for task in offer.tasks(possible, modes_of_tasks)]
    return ModulePlan(left, right, tuple(tasks), price)


@dataclass(frozen=True)
class _Offer:
    """Tasks of a block in every mode. edges: bounds of their parts, (tasks + 1,)."""

    edges: NDArray[np.int64]
    priced: Sequence[_Priced]

    def totals(self, price: float) -> Array:
        """Return cost + price * bits, (modes, tasks)."""
        return np.array([x.cost + price * x.bits for x in self.priced])

    def tasks(self, modes: Sequence[Mode], chosen: Iterator[int]) -> Iterator[TaskPlan]:
        """Yield the plans of the tasks in the modes that are next in ``chosen``."""
        for i, a in enumerate(self.edges[:-1].tolist()):
            mode = next(chosen)
            priced = self.priced[mode]
            b = a + int(priced.count[i])
            classes = priced.left[a:b], priced.right[a:b]
            own = priced.own[i] if priced.own else _NO_CLASSES
            cost, bits = float(priced.cost[i]), float(priced.bits[i])
            yield TaskPlan(modes[mode], *classes, cost, bits, own)


def _offered(
    block: ModuleCore,
    weights: Sequence[float],
    bases: Sequence[BasisPlan | None],
    possible: Sequence[Mode],
    price: float,
    measure: Measure,
    starts: Starts | None,
) -> _Offer:
    parts, lengths = _Parts.of(block.s, weights), (block.m, block.n)
    own = [
        x.space.within(block, side, x.q) if x else np.zeros((0, 0))
        for side, x in zip(("left", "right"), bases, strict=True)
    ]
    ways = {mode.left for mode in possible}, {mode.right for mode in possible}
    left_costs, right_costs = (
        side_costs(ways[side], lengths[side], bases[side], own[side]) for side in (0, 1)
    )
    begun = None if starts is None else starts.plan(block, np.array(weights), price, measure)

    def in_mode(mode: Mode) -> _Priced:
        left = left_costs[mode.left]
        if mode.right is Way.STARTED:
            if begun is None:
                return _impossible(parts)
            return _priced(parts, left, begun.side, price, measure).started(begun)
        return _priced(parts, left, right_costs[mode.right], price, measure)

    return _Offer(parts.edges, [in_mode(mode) for mode in possible])


def _impossible(parts: _Parts) -> _Priced:
    """Return parts in a mode that no task of a block can have."""
    tasks, none = parts.edges.size - 1, np.zeros(parts.s.size, np.int64)
    never = np.full(tasks, np.inf)
    return _Priced(none, none, np.zeros(tasks, np.int64), never, np.zeros(tasks))


def _chosen(
    bases: Sequence[BasisPlan | None],
    possible: Sequence[Mode],
    costs: Array,
    price: float,
    given: bool,
) -> tuple[BasisPlan | None, BasisPlan | None, list[int]]:
    """Choose the bases to store and the mode of each task, by its number among the possible ones.

    costs: (modes, tasks). given: both bases are there in any case.
    """
    options = []
    choices = [(None, None), (None, bases[1]), (bases[0], None), (bases[0], bases[1])]
    for left, right in choices[3:] if given else choices:
        able = [i for i, mode in enumerate(possible) if mode.needs_no_more_than(left, right)]
        if able:
            shared = sum(basis.bits for basis in (left, right) if basis)
            best = costs[able].argmin(axis=0)
            total = price * shared + float(costs[able].min(axis=0).sum())
            options.append((total, left, right, [able[i] for i in best]))
    _, left, right, chosen = min(options, key=lambda option: option[0])
    return left, right, chosen


def _nothing(parts: _Parts, mode: Mode, price: float, measure: Measure) -> ModulePlan:
    none = np.zeros(0, np.int64)
    energies = [float(s @ s) for s in np.split(parts.s, parts.edges[1:-1])]
    cost = measure.left_out(np.array(energies))
    tasks = tuple(TaskPlan(mode, none, none, float(h), 0.0) for h in cost)
    return ModulePlan(None, None, tasks, price)
