"""Encode the tasks of one module, or code parts again at their rates.

All fits are of the size of a task's rank: a side is known by its products with the task's own
singular vectors, and only what is rounded has the module's size. Matrices of a stack are multiplied
one by one, so that a task's numbers do not depend on which others are in its stack.

Letters, beside those of hydraopt.codec.matrices: a stack has T tasks of rank r with k parts each;
vectors are rows, so that U and V are (T, r, m) and (T, r, n), L and R (T, k, m) and (T, k, n).

Order, and why: the shared bases are rounded first, since every task builds on them; then a task's
right side (the inputs, where errors hurt most); then its left side, fitted to the rounded right
one; then the coefficients, fitted to both. What is fitted last mends what was rounded before it.
All fits are in the measure's inner product, so that none of the adapter's own effect is traded for
noise.

A record of a stream says how many parts there are, how each side is written and how lively its
numbers are. Factors that take the place of those inside (hydraopt.model.refit trains such) are
rounded to the same spread classes, so they take about the same bytes, and no other record changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hydraopt.codec.blocks import AnyCore
from hydraopt.codec.core import ModuleCore
from hydraopt.codec.costs import BasisPlan, Classes, Measure, Starts
from hydraopt.codec.machine import in_threads
from hydraopt.codec.matrices import Array, Bases, Basis, Factors, Thin, inverses
from hydraopt.codec.planner import ModulePlan, TaskPlan
from hydraopt.codec.records import PartsRecord
from hydraopt.codec.sides import (
    BasisRecord,
    Mode,
    Side,
    Way,
    quantise_basis,
    quantise_over,
    quantise_side,
    quantise_started,
)
from hydraopt.codec.starts import Drawn, KnownStart
from hydraopt.codec.tables import exponents, power, spread_of

_FARTHEST_FIT: Final = 8
"""A coefficient that the fit moves by more than this factor, or turns negative, belongs to a part
that is all noise: it keeps the length of what it stands for."""
_LEAST: Final = 1e-15
"""Share of the largest singular value below which a value's direction is rounding."""


class Begun(NamedTuple):
    """Initial A of a task, and the spread classes of its own directions, (c,)."""

    drawn: Drawn
    own: Classes


@dataclass(frozen=True)
class Alike:
    """Tasks of one rank, mode and number of parts.

    u (T, r, m), s (T, r), v (T, r, n): thin SVDs. left, right (T, k): spread classes. unbiased: as
    of a measure. begun: one for each task if the right sides are started, else empty.
    """

    mode: Mode
    u: Array
    s: Array
    v: Array
    left: Classes
    right: Classes
    unbiased: float
    begun: Sequence[Begun] = ()


def steps(classes: Classes, numbers: int | Array) -> Array:
    """Return lengths, in steps, of columns of ``numbers`` entries at the given spread classes."""
    lengths: Array = np.sqrt(numbers) * spread_of(classes)
    return lengths


@dataclass(frozen=True)
class _Over:
    """Vectors over a basis.

    products (T, q, r): inner products of the basis's vectors with them.
    coordinates (T, q, r): least-squares coordinates.
    """

    products: Array
    coordinates: Array

    @classmethod
    def of(cls, basis: Basis | None, rows: Array, way: Way) -> _Over | None:
        if way in (Way.EXPLICIT, Way.STARTED):
            return None
        if basis is None:
            raise ValueError(f"a side that is {way.name.lower()} needs a basis")
        products = basis.vectors.T @ rows.transpose(0, 2, 1)
        return cls(products, basis.inverse @ products)

    @property
    def gram(self) -> Array:
        """Inner products of the vectors' projections on the basis, (T, r, r)."""
        gram: Array = self.products.transpose(0, 2, 1) @ self.coordinates
        return gram


def encode_alike(
    tasks: Alike, left: Basis | None, right: Basis | None
) -> list[tuple[PartsRecord, float] | None]:
    """Return each task's rounded parts and |dW - dW~|^2; None for a task that keeps nothing.

    left, right: bases that the mode uses.

    The right side (the inputs, where errors hurt most) is rounded first; then the left side, fitted
    to the rounded right one; then the coefficients, fitted to both.
    """
    mode, s, extra = tasks.mode, tasks.s, tasks.unbiased - 1.0
    over_left = _Over.of(left, tasks.u, mode.left)
    over_right = _Over.of(right, tasks.v, mode.right)
    turn = _target(tasks, over_left, over_right)
    if tasks.begun:
        rights = _quantised_started(tasks, turn)
    else:
        rights = _apart(_quantised(tasks.v, over_right, turn, mode.right, right), len(s))
    R = _rows(rights)
    VR, RR = tasks.v @ _t(R), R @ _t(R)
    VmR, RmR = tasks.unbiased * VR, RR + extra * (_t(VR) @ VR)
    ideal = (s[:, :, None] * VmR) @ inverses(RmR)
    lengths = np.sqrt(np.einsum("trk,trk->tk", ideal, ideal))
    numbers = left.q if mode.left is Way.SHARED and left is not None else tasks.u.shape[2]
    # Over coefficients on the grid, which therefore cost no accuracy.
    ratio = power(exponents(lengths / steps(tasks.left, numbers)))
    whole = _quantised(tasks.u, over_left, ideal / ratio[:, None], mode.left, left)
    lefts = _apart(whole, len(s))
    L = _rows(lefts)
    UL, LL = tasks.u @ _t(L), L @ _t(L)
    gram = (LL + extra * (_t(UL) @ UL)) * RmR
    rhs = tasks.unbiased * np.einsum("trk,tr,trk->tk", UL, s, VmR)
    grid = exponents(coefficients(gram, rhs, LL, lengths))
    c = power(grid)
    energy = np.einsum("tr,tr->t", s, s)
    cross = np.einsum("tk,trk,tr,trk->t", c, UL, s, VR)
    errors = energy - 2 * cross + np.einsum("tk,tl,tkl,tkl->t", c, c, LL, RR)
    kept: NDArray[np.bool_] = np.any(R != 0, axis=2)
    return [
        (_record(lefts[i], rights[i], grid[i], kept[i]), float(errors[i]))
        if kept[i].any()
        else None
        for i in range(len(s))
    ]


def _t(x: Array) -> Array:
    return x.transpose(0, 2, 1)


def _target(tasks: Alike, left: _Over | None, right: _Over | None) -> Array:
    """Return (T, r, k): the matrices that turn the rows of V into the right side, in steps.

    Where a side is shared, the product is projected on its basis; its singular vectors are those
    of a matrix of size r.
    """
    k = tasks.right.shape[1]
    shared = [mode is Way.SHARED for mode in (tasks.mode.left, tasks.mode.right)]
    size = tasks.s.shape[1]
    numbers: int | Array = tasks.v.shape[2]
    if tasks.begun:
        numbers = np.array([[x.drawn.rows + x.own.size] for x in tasks.begun])
    turn, gram = np.broadcast_to(np.eye(size), (len(tasks.s), size, size)), None
    if right is not None and shared[1]:
        gram, numbers = right.gram, right.products.shape[1]
    if any(shared):
        half = tasks.s[:, :, None] * turn
        if left is not None and shared[0]:
            half = tasks.s[:, :, None] * _root(left.gram)
        values, vectors = np.linalg.eigh(_t(half) @ (half if gram is None else gram @ half))
        values = np.maximum(values, np.maximum(values[:, -1:], 1e-300) * _LEAST**2)
        turn = ((half @ vectors) / np.sqrt(values)[:, None])[:, :, ::-1]
    turn = turn[:, :, :k]
    squared = np.einsum("trk,trk->tk", turn, turn if gram is None else gram @ turn)
    lengths = np.sqrt(np.where(squared > 0, squared, 1.0))
    result: Array = turn * (steps(tasks.right, numbers) / lengths)[:, None]
    return result


def _root(grams: Array) -> Array:
    """Return the symmetric roots of symmetric positive matrices (T, r, r)."""
    values, vectors = np.linalg.eigh(grams)
    root: Array = (vectors * np.sqrt(np.maximum(values, 0.0))[:, None]) @ _t(vectors)
    return root


def _quantised(rows: Array, over: _Over | None, turn: Array, way: Way, basis: Basis | None) -> Side:
    """Return the sides of all tasks one after the other, (N, T k).

    The vectors (T, r, N) are turned by ``turn`` (T, r, k).
    """
    count = turn.shape[0] * turn.shape[2]
    x = None
    if way is not Way.SHARED:
        x = (_t(turn) @ rows).reshape(count, rows.shape[2]).T
    if over is None or basis is None:
        assert x is not None
        return quantise_side(x, way, None)
    coordinates = (_t(turn) @ _t(over.coordinates)).reshape(count, basis.q).T
    return quantise_over(coordinates, x, basis)


def _quantised_started(tasks: Alike, turn: Array) -> list[Side]:
    """Return the right sides of all tasks, over their initial A and own directions."""
    # Norms of the parts, so that own directions are the principal ones of dW, not of the rows.
    weights = np.linalg.norm(tasks.s[:, :, None] * turn, axis=1) / np.sum(turn**2, axis=1)
    return [
        quantise_started(
            (turn[i].T @ tasks.v[i]).T, drawn, weights[i], steps(own, tasks.v.shape[2])
        )
        for i, (drawn, own) in enumerate(tasks.begun)
    ]


def _apart(side: Side, tasks: int) -> list[Side]:
    """Return the sides of each task."""
    k = side.values.shape[1] // tasks
    return [side.keep(slice(i * k, (i + 1) * k)) for i in range(tasks)]


def _rows(sides: Sequence[Side]) -> Array:
    """Return the columns of the tasks' sides as rows, (T, k, N)."""
    return np.stack([side.values.T for side in sides])


def coefficients(gram: Array, rhs: Array, LL: Array, lengths: Array) -> Array:
    """Return coefficients c > 0 (T, k) with the least ``c^T gram c - 2 c^T rhs``.

    This is the error of ``sum_j c_j l_j r_j^T`` in the inner product.

    gram, LL (T, k, k): of the rounded parts in the inner product, and of their left sides in the
    plain one. lengths (T, k): of what the left sides stand for.
    """
    fitted = (inverses(gram) @ rhs[:, :, None])[:, :, 0]
    rounded = np.sqrt(np.einsum("tkk->tk", LL))
    before = lengths / np.where(rounded > 0, rounded, 1.0)
    sound = (fitted > before / _FARTHEST_FIT) & (fitted < before * _FARTHEST_FIT)
    result: Array = np.where(sound, fitted, np.maximum(before, 1e-30))
    return result


def _record(left: Side, right: Side, grid: Classes, kept: Sequence[bool]) -> PartsRecord:
    """Return the parts of a task whose right sides are not rounded to nothing."""
    if all(kept):
        return PartsRecord(left, right, grid)
    some = np.asarray(kept)
    return PartsRecord(left.keep(some), right.keep(some), grid[some])


_TOGETHER: Final = 1 << 20
"""Approximate count of numbers of a side that are rounded at once."""
_EXACT: Final = 1e-4
"""Share of |dW|^2. Smaller errors are measured by the exact product of the stored factors."""


@dataclass(frozen=True)
class EncodedModule:
    """Module that is ready to be written.

    left, right: the bases to be written; has_bases: whether records are over any, also over such
    as are written elsewhere.
    records: for each task of the module, in the core's order, its parts or None if nothing pays.
    energies, errors: squared Frobenius norms of dW_t and of dW_t - dW~_t, measured after rounding.
    """

    contents: tuple[int, ...]
    left: BasisRecord | None
    right: BasisRecord | None
    records: tuple[PartsRecord | None, ...]
    energies: tuple[float, ...]
    errors: tuple[float, ...]
    has_bases: bool


def encode_bases(
    core: AnyCore, plan: ModulePlan, threads: int = 1
) -> tuple[BasisRecord | None, BasisRecord | None]:
    """Round the bases of a plan, left and right."""
    sides = (plan.left, "left"), (plan.right, "right")
    _read_ahead(core, threads)
    left, right = in_threads(lambda side: _encode_basis(core, *side), sides, threads)
    return left, right


def _read_ahead(core: AnyCore, threads: int) -> None:
    """Let a core read its vectors before several threads ask for them.

    Only one thread at a time may read the file that holds them, and from Python 3.12 on each thread
    would read them for itself.
    """
    if threads > 1 and isinstance(core, ModuleCore):
        core.U  # noqa: B018  # kept by being asked for


def _encode_basis(core: AnyCore, plan: BasisPlan | None, side: str) -> BasisRecord | None:
    if plan is None:
        return None
    directions = core.directions(plan.space, side, plan.q)
    return quantise_basis(directions * steps(plan.classes, directions.shape[0]))


def encode_module(
    core: ModuleCore,
    plan: ModulePlan,
    measure: Measure,
    given: Bases | None = None,
    threads: int = 1,
    starts: Starts | None = None,
) -> EncodedModule:
    """Encode all tasks of a module under its plan; deterministic.

    given: the bases that the plan was made over, if they are there already. threads: that tasks are
    shared out to; does not change the result. starts: those that the plan was made with.
    """
    left = right = None
    _read_ahead(core, threads)
    if given is None:
        left, right = encode_bases(core, plan, threads)
        given = left.basis if left else None, right.basis if right else None
    records: list[PartsRecord | None] = [None] * len(core.s)
    energies = [float(s @ s) for s in core.s]
    errors = energies.copy()

    def encoded(group: tuple[list[int], int]) -> list[tuple[PartsRecord, float] | None]:
        return encode_alike(_alike(core, plan, *group, measure, starts), *given)

    groups = list(_groups(core, plan, given, threads))
    for (tasks, _), some in zip(groups, in_threads(encoded, groups, threads), strict=True):
        for i, done in zip(tasks, some, strict=True):
            if done is None:
                continue
            records[i], errors[i] = done
            if errors[i] <= _EXACT * energies[i]:
                errors[i] = squared_error(core.thin(i), done[0])
    return EncodedModule(
        core.contents,
        left,
        right,
        tuple(records),
        tuple(energies),
        tuple(errors),
        any(basis is not None for basis in given),
    )


def _groups(
    core: ModuleCore, plan: ModulePlan, given: Bases, threads: int
) -> Iterator[tuple[list[int], int]]:
    """Yield tasks of one mode, rank and number of parts, some at a time.

    Tasks without parts are left out. threads: minimum number of groups of each kind, if it has as
    many tasks.
    """
    groups: dict[tuple[Mode, int, int], list[int]] = {}
    for i, (task, s) in enumerate(zip(plan.tasks, core.s, strict=True)):
        k = min(_most(task, given), s.size)
        if k:
            groups.setdefault((task.mode, s.size, k), []).append(i)
    for (_, rank, k), tasks in groups.items():
        most = max(_TOGETHER // (rank * max(core.m, core.n)), 1)
        some = min(most, -(-len(tasks) // threads))
        for first in range(0, len(tasks), some):
            yield tasks[first : first + some], k


def _most(task: TaskPlan, given: Bases) -> int:
    """Return the largest number of parts that the shared sides of a task have room for."""
    ways = (task.mode.left, task.mode.right)
    rooms = [
        basis.q
        for way, basis in zip(ways, given, strict=True)
        if way is Way.SHARED and basis is not None
    ]
    return min([task.left.size, *rooms])


def _alike(
    core: ModuleCore,
    plan: ModulePlan,
    tasks: Sequence[int],
    k: int,
    measure: Measure,
    starts: Starts | None,
) -> Alike:
    """Return the input of encode_alike for tasks of one group of :func:`_groups`, of k parts."""
    mode, begun = plan.tasks[tasks[0]].mode, list[Begun]()
    for i in tasks if mode.right is Way.STARTED else ():
        drawn = None if starts is None else starts.here(core.contents[i])
        assert drawn is not None
        begun.append(Begun(drawn, plan.tasks[i].own))
    return Alike(
        mode,
        core.rows("left", tasks),
        np.stack([core.s[i] for i in tasks]),
        core.rows("right", tasks),
        np.stack([plan.tasks[i].left[:k] for i in tasks]),
        np.stack([plan.tasks[i].right[:k] for i in tasks]),
        measure.unbiased,
        begun,
    )


def squared_error(thin: Thin, record: PartsRecord) -> float:
    """Return |dW - dW~|^2 from the small cores, in float64; good to 1e-14 of |dW|^2."""
    got = record.factors
    cross = np.sum(((thin.U.T @ got.B) * thin.s[:, None]) * (got.A @ thin.V).T)
    error = thin.energy - 2 * float(cross) + got.squared_norm()
    if error > _EXACT * thin.energy:
        return error
    # The stored factors are orthonormal to single precision only: where that shows, use the norm
    # of what they really multiply to, so that the three terms cancel exactly.
    whole = Factors(thin.U * thin.s, thin.V.T).squared_norm()
    return max(whole - 2 * float(cross) + got.squared_norm(), 0.0)


@dataclass(frozen=True)
class CodedModule:
    """Record of a task in a module, and what it is written over.

    left, right: shared bases of the module. start: of the task. Each is None if there is none.
    """

    record: PartsRecord
    left: Basis | None
    right: Basis | None
    start: KnownStart | None = None

    @property
    def bases(self) -> Bases:
        return self.left, self.right


@dataclass(frozen=True)
class Recoded:
    """Record made from other factors.

    factors: what a reader will see, B (m, k) and A (k, n), each column of B and row of A as long
    as the one that it was made of, as far as rounding keeps it: so that both sides can be compared
    with what they stand for, part by part. Their product is the record's.
    """

    record: PartsRecord
    factors: Factors


def _scales(x: Array, side: Side, basis: Basis | None) -> Array:
    """Return the factor of each column of ``x`` (N, k) that brings it to the side's rate.

    Of a predicted side neither the whole nor what the basis misses may be livelier than it was: a
    column that has moved away from the basis is written more roughly, not with more bits.
    """
    if side.way is Way.STARTED:
        started: Array = np.linalg.norm(side.values, axis=0) / _lengths(x)
        return np.where(started > 0, started, 1.0)
    if side.way is not Way.PREDICTED or basis is None:
        block = side.own if side.coordinates is None else side.coordinates
        assert block is not None
        lengths: Array = np.sqrt(block.levels.shape[1]) * spread_of(block.spreads)
        return lengths / _lengths(x)
    assert side.own is not None
    missed = x - basis.vectors @ basis.coordinates(x)
    most = np.linalg.norm(side.values, axis=0) / _lengths(x)
    own = np.sqrt(len(x)) * spread_of(side.own.spreads)
    least = np.maximum(np.linalg.norm(missed, axis=0), 1e-12 * _lengths(x))
    scales: Array = np.minimum(most, own / least)
    return np.where(scales > 0, scales, 1.0)


def _lengths(x: Array) -> Array:
    lengths = np.linalg.norm(x, axis=0)
    whole: Array = np.where(lengths > 0, lengths, 1.0)
    return whole


def _started(x: Array, like: Side, weights: Array) -> Side:
    """Quantise ``x`` (N, k) over the initial A of a side, with own directions at its rate."""
    assert like.drawn is not None
    lengths = np.zeros(0)
    if like.residual is not None:
        lengths = np.sqrt(len(x)) * spread_of(like.residual.basis.block.spreads)
    return quantise_started(x, like.drawn, weights, lengths)


def _unbiased(x: Array, rounded: Array) -> Array:
    """Return factors (k,) with which rounded columns have the effect of ``x`` (N, k) along it.

    They are 1 for columns that rounding turned to nothing.
    """
    along = np.sum(x * rounded, axis=0)
    some = along > 0
    factors: Array = np.where(some, np.sum(x * x, axis=0) / np.where(some, along, 1.0), 1.0)
    return factors


def recode(factors: Factors, coded: CodedModule) -> Recoded:
    """Encode other factors in place of ``coded``, in as many parts and at the same rate.

    The factors are B (m, k) with the scale inside and A (k, n).

    Ways and spread classes are those of the old record; of a shared side only what lies in its
    basis is kept, and of a started one as many own directions as there were. The coefficients undo
    what rounding takes from each part's effect.
    Deterministic; O(k (m + n)), and the bases' part.
    """
    record, left, right = coded.record, coded.left, coded.right
    a = factors.A.T
    into = _scales(a, record.right, right)
    if record.right.drawn is None:
        rights = quantise_side(a * into, record.right.way, right)
    else:
        rights = _started(a * into, record.right, _lengths(factors.B) / into)
    back = _unbiased(a * into, rights.values) / into
    ideal = factors.B * back
    # On the grid of coefficients, which so cost no accuracy.
    grid = exponents(1 / _scales(ideal, record.left, left))
    lefts = quantise_side(ideal / power(grid), record.left.way, left)
    coefficients = exponents(power(grid) * _unbiased(ideal / power(grid), lefts.values))
    made = PartsRecord(lefts, rights, coefficients)
    b, a = lefts.values * power(coefficients) / back, (rights.values * back).T
    return Recoded(made, Factors(b, a))
