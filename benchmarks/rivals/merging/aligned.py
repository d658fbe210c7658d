"""Merging methods that no library has and that align tasks by a decomposition of them all.

Each returns one adapter for all tasks, without a matrix of the size of dW but for KnOTS' TIES.
rank: where the result shall be cut, None for not at all; a sum of T adapters has up to ``sum r``
parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.rivals.merging.by_peft import elected
from benchmarks.rivals.merging.core import SmallCore, small_core
from hydraopt.codec import Array, Factors, in_range, thin
from hydraopt.codec.matrices import COINCIDENT, rank_of, rounding, significant
from hydraopt.merging import Merged
from hydraopt.merging.hydra import check_shapes, rank_for, weights_for

__all__ = [
    "core_ties",
    "iso_c",
    "knots_ties",
    "tsv_m",
]


def _lifted(core: SmallCore, merged: Array, rank: int | None) -> Merged:
    return Merged.one_for_all(core.lift(merged, rank), len(core.sides))


def knots_ties(
    factors: Sequence[Factors],
    weights: Sequence[float] | None = None,
    density: float = 0.2,
    lam: float = 1.0,
    rank: int | None = None,
) -> Merged:
    """Merge by KnOTS with TIES: one SVD of all dW's side by side aligns them before TIES merges.

    Stoica et al., ICLR 2025, arXiv 2410.19735: ``[dW_1 ... dW_T] = U S [V_1 ... V_T]``, TIES on the
    entries of S V_t (k, n), k <= sum r, and U times the result. The SVD is that of the B_t side by
    side, each times the triangle of its A_t, O((sum r)^3). All S V_t are held at once, T k n
    numbers. Trimming is per module; lam, in the paper from validation data, is 1.
    """
    m, n = check_shapes(factors)
    w = weights_for(weights, len(factors), 1.0)
    left, _ = np.linalg.qr(np.concatenate([f.B for f in factors], axis=1))
    # dW_t = left M_t Q_t^T: as the Q_t are orthonormal, the M_t have the SVD that is asked for.
    rights, mixed = [], []
    for f in factors:
        q, triangle = np.linalg.qr(f.A.T)
        rights.append(q)
        mixed.append((left.T @ f.B) @ triangle.T)
    u, s, vt = np.linalg.svd(in_range(np.concatenate(mixed, axis=1)), full_matrices=False)
    k = max(rank_of(s, rounding(m, n)), 1)
    ends = np.cumsum([q.shape[1] for q in rights])[:-1]
    own = zip(np.split(s[:k, None] * vt[:k], ends, axis=1), rights, strict=True)
    merged = lam * elected([block @ q.T for block, q in own], w, density)
    # Rows of the merged matrix are coordinates over U; their QR gives balanced factors.
    right, triangle = np.linalg.qr(merged.T)
    common = SmallCore(left @ u[:, :k], right, ()).lift(triangle.T, rank)
    return Merged.one_for_all(common, len(factors))


def core_ties(
    factors: Sequence[Factors],
    weights: Sequence[float] | None = None,
    density: float = 0.2,
    lam: float = 1.0,
    rank: int | None = None,
) -> Merged:
    """Merge by Core Space with TIES on the entries of the cores.

    Panariello et al., NeurIPS 2025, arXiv 2509.17786: M_t = U_B^T dW_t V_A over the singular
    vectors of the stacked B's and the stacked A's. These change with the factoring of a dW, unless
    it changes by a rotation, and the entries that TIES compares with them.
    """
    core = _reference(factors)
    w = weights_for(weights, len(factors), 1.0)
    return _lifted(core, lam * elected(list(core.cores()), w, density), rank)


def _reference(factors: Sequence[Factors]) -> SmallCore:
    """Return the core in Core Space's own bases.

    They are singular vectors, the strongest first, without nulls.
    """
    core = small_core(factors)
    bases = []
    for basis, stacked in (
        (core.left, np.concatenate([f.B for f in factors], axis=1)),
        (core.right, np.concatenate([f.A for f in factors], axis=0).T),
    ):
        u, s, _ = np.linalg.svd(in_range(basis.T @ stacked), full_matrices=False)
        bases.append(u[:, significant(s, rounding(*stacked.shape))])
    left, right = bases
    if left.size == 0 or right.size == 0:
        return core
    sides = tuple(Factors(left.T @ side.B, side.A @ right) for side in core.sides)
    return SmallCore(core.left @ left, core.right @ right, sides)


def tsv_m(
    factors: Sequence[Factors],
    weights: Sequence[float] | None = None,
    lam: float = 1.0,
    rank: int | None = None,
) -> Merged:
    """Merge by TSV-Merge: the tasks' strongest singular vectors, made orthogonal, and summed.

    Gargiulo et al., CVPR 2025, arXiv 2412.00081: of each dW min(m, n) / T parts, which for LoRA are
    mostly all; U = [U_1 ... U_T] and V are replaced by the nearest matrices with orthonormal
    columns (Procrustes, U (U^T U)^-1/2, by the pseudo-inverse where tasks' vectors coincide) and
    ``lam * U diag(s) V^T`` is the result. weights multiply s, default 1.
    """
    core = small_core(factors)
    w = weights_for(weights, len(factors), 1.0)
    share = max(min(core.left.shape[0], core.right.shape[0]) // len(factors), 1)
    us, ss, vs = [], [], []
    for side, weight in zip(core.sides, w, strict=True):
        t = thin(side.B, side.A)
        us.append(t.U[:, :share])
        ss.append(weight * t.s[:share])
        vs.append(t.V[:, :share])
    s = np.concatenate(ss)
    if s.size == 0:
        return _lifted(core, np.zeros_like(core.core(0)), rank)
    u, v = _polar(np.concatenate(us, axis=1)), _polar(np.concatenate(vs, axis=1))
    return _lifted(core, lam * (u * s) @ v.T, rank)


def _polar(columns: Array) -> Array:
    """Return the nearest matrix with orthonormal columns, within the span of the columns."""
    u, s, vt = np.linalg.svd(in_range(columns), full_matrices=False)
    sound = significant(s, COINCIDENT)
    polar: Array = u[:, sound] @ vt[sound]
    return polar


def iso_c(
    factors: Sequence[Factors],
    weights: Sequence[float] | None = None,
    lam: float = 1.0,
    rank: int | None = None,
) -> Merged:
    """Merge by Iso-C: all singular values of the sum of the dW's become their mean, times lam.

    Marczak et al., ICML 2025, arXiv 2502.04959. The mean runs over the values that are not zero;
    over all min(m, n) of them, as in the authors' code for full fine-tuning, the sum of LoRAs would
    get arbitrary directions. weights: default 1. A lone adapter does not stay what it was.
    """
    core = small_core(factors)
    w = weights_for(weights, len(factors), 1.0)
    total = core.weighted(w)
    u, s, vt = np.linalg.svd(in_range(total), full_matrices=False)
    sound = significant(s, rounding(core.left.shape[0], core.right.shape[0]))
    level = float(s[sound].mean()) if sound.any() else 0.0
    # Equal values have no order of their own; a cut keeps the parts that were the strongest.
    keep = np.flatnonzero(sound)[: s.size if rank is None else rank_for(rank, factors)]
    flat = lam * level * (u[:, keep] @ vt[keep])
    return Merged.one_for_all(core.lift(flat), len(factors))
