"""Frobenius norms of low-rank products, measured through R factors: nothing cancels.

A norm from Gram matrices (:meth:`Factors.squared_norm`) is cheaper, and of a small difference of
large products it is only rounding.
"""

from __future__ import annotations

import numpy as np

from hydraopt.linalg.shapes import Array, Factors

__all__ = ["distance", "product_norm", "ratio", "relative_error"]


def product_norm(b: Array, a: Array) -> float:
    """Return |b a| for b (m, r), a (r, n); O((m + n) r^2), (m, n) is never formed."""
    if b.shape[1] == 0:
        return 0.0
    left, right = np.linalg.qr(b)[1], np.linalg.qr(a.T)[1]
    return float(np.linalg.norm(left @ right.T))


def distance(true: Factors, other: Factors) -> float:
    """Return |dW - dW~|, as the norm of one product of rank r + k."""
    return product_norm(np.hstack([true.B, -other.B]), np.vstack([true.A, other.A]))


def ratio(off: float, size: float) -> float:
    """Return off / size; 0 if both are zero, 1 if only size is."""
    if size == 0:
        return 0.0 if off == 0 else 1.0
    return off / size


def relative_error(true: Factors, other: Factors) -> float:
    """Return ``|dW - dW~| / |dW|``; 0 if both are zero, 1 if only dW is.

    O((m + n) (r + k)^2).
    """
    return ratio(distance(true, other), product_norm(true.B, true.A))
