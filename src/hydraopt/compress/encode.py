"""The encoder: a plan of a module turned into rounded numbers, each step fitted to the one before.

Order, and why: the shared bases are rounded first, since every task builds on them; then a task's
right side (the inputs, where errors hurt most); then its left side, fitted to the rounded right
one; then the coefficients, fitted to both. What is fitted last mends what was rounded before it.
All fits are in the measure's inner product, so that none of the adapter's own effect is traded for
noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hydraopt.coding.coefficients import exponents, power
from hydraopt.coding.forms import Way
from hydraopt.coding.records import BasisRecord, PartsRecord, Side, quantise_basis, quantise_side
from hydraopt.coding.spread import spread_of
from hydraopt.compress.core import ModuleCore
from hydraopt.compress.measure import InnerProduct, Measure, displacement
from hydraopt.compress.plan import ModulePlan, TaskPlan
from hydraopt.compress.sides import BasisPlan, Classes
from hydraopt.linalg.basis import Bases, Basis, symmetric_inverse
from hydraopt.linalg.shapes import Array, Factors, Thin

__all__ = ["EncodedModule", "encode_module", "squared_error"]

_FARTHEST_FIT = 8
"""A coefficient that the fit moves by more than this factor, or turns negative, belongs to a part
that is all noise: it keeps the length of what it stands for."""


@dataclass(frozen=True)
class EncodedModule:
    """One module, ready to be written.

    left, right: the bases to be written; has_bases: whether records are over any, also over such
    as are written elsewhere.
    records: for each task of the module, in the core's order, its parts or None if nothing pays.
    energies, errors: squared Frobenius norms of dW_t and of dW_t - dW~_t, measured after rounding.
    """

    index: int
    contents: tuple[int, ...]
    left: BasisRecord | None
    right: BasisRecord | None
    records: tuple[PartsRecord | None, ...]
    energies: tuple[float, ...]
    errors: tuple[float, ...]
    has_bases: bool


def _steps(classes: Classes, numbers: int) -> Array:
    """Lengths, in steps, of columns of ``numbers`` entries at the given spread classes."""
    lengths: Array = np.sqrt(numbers) * spread_of(classes)
    return lengths


def _encode_basis(core: ModuleCore, plan: BasisPlan | None, side: str) -> BasisRecord | None:
    if plan is None:
        return None
    directions = core.directions(plan.space, side, plan.q)
    return quantise_basis(directions * _steps(plan.classes, directions.shape[0]))


def _restrict(thin: Thin, left: Basis | None, right: Basis | None) -> Thin:
    """The product projected on the given bases, as a thin SVD of the projection."""
    if left is None and right is None:
        return thin
    ql: Array = thin.U if left is None else left.orthonormal
    qr: Array = thin.V if right is None else right.orthonormal
    u, s, vt = np.linalg.svd(((ql.T @ thin.U) * thin.s) @ (thin.V.T @ qr), full_matrices=False)
    return Thin(ql @ u, s, qr @ vt.T)


def _scaled(x: Array, classes: Classes, way: Way, basis: Basis | None) -> Array:
    """Columns of ``x`` brought to the length that puts the written numbers at their spread."""
    numbers = basis.q if way is Way.SHARED and basis is not None else x.shape[0]
    lengths = np.linalg.norm(x, axis=0)
    return x * (_steps(classes, numbers) / np.where(lengths > 0, lengths, 1.0))


def _encode_task(
    thin: Thin,
    plan: TaskPlan,
    left: Basis | None,
    right: Basis | None,
    into: InnerProduct,
    out: InnerProduct,
) -> PartsRecord | None:
    """Round one task's parts; ``into``: the product on inputs (n); ``out``: that on outputs (m)."""
    mode = plan.mode
    target = _restrict(
        thin,
        left if mode.left is Way.SHARED else None,
        right if mode.right is Way.SHARED else None,
    )
    k = min(plan.left.size, target.s.size)
    if k == 0:
        return None
    rights = quantise_side(
        _scaled(target.V[:, :k], plan.right[:k], mode.right, right), mode.right, right
    )
    rights = rights.keep(np.any(rights.values != 0, axis=0))
    k = rights.values.shape[1]
    if k == 0:
        return None
    weighted = into @ rights.values
    ideal: Array = thin.U @ (thin.s[:, None] * (thin.V.T @ weighted))
    ideal = ideal @ symmetric_inverse(rights.values.T @ weighted)
    lefts = quantise_side(_scaled_to(ideal, plan.left[:k], mode.left, left), mode.left, left)
    coefficients = _fit(thin, lefts, rights, into, out, ideal)
    return PartsRecord(lefts, rights, exponents(coefficients))


def _scaled_to(ideal: Array, classes: Classes, way: Way, basis: Basis | None) -> Array:
    """The ideal left side over coefficients on the grid, which therefore cost no accuracy."""
    x = _scaled(ideal, classes, way, basis)
    lengths = np.linalg.norm(x, axis=0)
    ratio = np.linalg.norm(ideal, axis=0) / np.where(lengths > 0, lengths, 1.0)
    return ideal / power(exponents(ratio))


def _fit(
    thin: Thin, lefts: Side, rights: Side, into: InnerProduct, out: InnerProduct, ideal: Array
) -> Array:
    """Coefficients c_j > 0 with the least error of ``sum_j c_j l_j r_j^T`` in the inner product."""
    outer, inner = out @ lefts.values, into @ rights.values
    gram = (lefts.values.T @ outer) * (rights.values.T @ inner)
    rhs = np.einsum("jr,rj->j", (outer.T @ thin.U) * thin.s, thin.V.T @ inner)
    fitted = symmetric_inverse(gram) @ rhs
    lengths = np.linalg.norm(lefts.values, axis=0)
    before = np.linalg.norm(ideal, axis=0) / np.where(lengths > 0, lengths, 1.0)
    sound = (fitted > before / _FARTHEST_FIT) & (fitted < before * _FARTHEST_FIT)
    coefficients: Array = np.where(sound, fitted, np.maximum(before, 1e-30))
    return coefficients


def encode_module(
    core: ModuleCore, plan: ModulePlan, measure: Measure, given: Bases | None = None
) -> EncodedModule:
    """Encode all tasks of a module under its plan; deterministic.

    given: the bases that the plan was made over, if they are there already.
    """
    left = right = None
    if given is None:
        left = _encode_basis(core, plan.left, "left")
        right = _encode_basis(core, plan.right, "right")
        given = left.basis if left else None, right.basis if right else None
    left_basis, right_basis = given
    thins = [core.thin(i) for i in range(len(core.s))]
    moved = None
    if measure.displacement:
        moved = displacement(thins, max((t.s.size for t in thins), default=0))
    records: list[PartsRecord | None] = []
    errors = []
    for i, (thin, task) in enumerate(zip(thins, plan.tasks, strict=True)):
        into = InnerProduct.own_space(thin.V, measure.unbiased)
        if moved is not None:
            vectors, shares = moved[i]
            into = into.plus(vectors, shares * measure.displacement * core.n)
        out = InnerProduct.own_space(thin.U, measure.unbiased)
        record = _encode_task(thin, task, left_basis, right_basis, into, out)
        records.append(record)
        errors.append(thin.energy if record is None else squared_error(thin, record))
    return EncodedModule(
        core.index,
        core.contents,
        left,
        right,
        tuple(records),
        tuple(t.energy for t in thins),
        tuple(errors),
        any(basis is not None for basis in given),
    )


def squared_error(thin: Thin, record: PartsRecord) -> float:
    """|dW - dW~|^2 from the small cores, in float64; good to 1e-14 of |dW|^2."""
    got = record.factors
    cross = np.sum(((thin.U.T @ got.B) * thin.s[:, None]) * (got.A @ thin.V).T)
    error = thin.energy - 2 * float(cross) + got.squared_norm()
    if error > 1e-4 * thin.energy:
        return error
    # The stored factors are orthonormal to single precision only: where that shows, use the norm
    # of what they really multiply to, so that the three terms cancel exactly.
    whole = Factors(thin.U * thin.s, thin.V.T).squared_norm()
    return max(whole - 2 * float(cross) + got.squared_norm(), 0.0)
