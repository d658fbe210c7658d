"""Thin SVD of a module's product of factors."""

from __future__ import annotations

import numpy as np

from hydraopt.linalg.cutoff import rank_of, rounding
from hydraopt.linalg.shapes import Array, Factors, Thin

__all__ = ["halved", "in_range", "thin"]


def thin(B: Array, A: Array) -> Thin:
    """Return the thin SVD of ``B A`` by the small core.

    The rank is cut at eps * max(m, n) * s_0, and signs are fixed.

    B (m, r), A (r, n). The largest entry of each column of V is positive, so that equal products
    give equal factors. O((m + n) r^2 + r^3); never forms (m, n). Exact zeros give k = 0.
    Raises numpy's LinAlgError where the product leaves float64.
    """
    qb, rb = np.linalg.qr(B)
    qa, ra = np.linalg.qr(A.T)
    u, s, vt = np.linalg.svd(in_range(rb @ ra.T))
    keep = rank_of(s, rounding(B.shape[0], A.shape[1]))
    U, V = qb @ u[:, :keep], qa @ vt[:keep].T
    if keep:
        peak = np.abs(V).argmax(axis=0)
        sign = np.sign(V[peak, np.arange(keep)])
        U, V = U * sign, V * sign
    return Thin(U, s[:keep], V)


def in_range(matrix: Array) -> Array:
    """Return ``matrix``; raise numpy's LinAlgError if it holds NaN or infinity.

    Some of LAPACK's iterations never end on these.
    """
    if not np.isfinite(matrix).all():
        raise np.linalg.LinAlgError("a matrix to decompose is not finite")
    return matrix


def halved(u: Array, s: Array, vt: Array, keep: int) -> Factors:
    """Return the first ``keep`` parts of ``u diag(s) vt`` as factors with the roots of s in both.

    u (m, k), s (k,), vt (k, n), as numpy.linalg.svd returns them.
    """
    root = np.sqrt(s[:keep])
    return Factors(u[:, :keep] * root, root[:, None] * vt[:keep])
