"""Tasks of one module that are written alike, encoded side by side.

All fits are of the size of a task's rank: a side is known by its products with the task's own
singular vectors, and only what is rounded has the module's size. Matrices of a stack are multiplied
one by one, so that a task's numbers do not depend on which others are in its stack.

Letters, beside those of hydraopt.linalg.shapes: a stack has T tasks of rank r with k parts each;
vectors are rows, so that U and V are (T, r, m) and (T, r, n), L and R (T, k, m) and (T, k, n).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hydraopt.coding.coefficients import exponents, power
from hydraopt.coding.forms import Mode, Way
from hydraopt.coding.records import PartsRecord
from hydraopt.coding.side import Side, quantise_over, quantise_side, quantise_started
from hydraopt.coding.spread import spread_of
from hydraopt.compress.sides import Classes
from hydraopt.linalg.basis import Basis
from hydraopt.linalg.shapes import Array
from hydraopt.linalg.stack import inverses
from hydraopt.linalg.start import Drawn

__all__ = ["Alike", "Begun", "coefficients", "encode_alike", "steps"]

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
