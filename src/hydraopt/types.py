"""What crosses the borders between stages.

Letters: T tasks; a module has m outputs and n inputs; ``dW = B A`` with B (m, r), A (r, n) and the
adapter's scale inside B. A *part* is one rank-one term of a task's dW in a module; k counts parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EXPONENT_GRID",
    "Array",
    "Basis",
    "Factors",
    "Thin",
    "exponents",
    "power",
    "symmetric_inverse",
    "thin",
]

Array = NDArray[np.float64]

EXPONENT_GRID = 32
"""Coefficients are 2^(e / EXPONENT_GRID) with integer e; part of the format."""

_MANTISSAS = np.array(
    [round(2 ** (30 + i / EXPONENT_GRID)) for i in range(EXPONENT_GRID)], np.float64
)
_GRID_BITS = EXPONENT_GRID.bit_length() - 1


def power(exponents: NDArray[np.int64]) -> Array:
    """2^(e / 32) through a table of 31-bit integers: the same bits on every machine."""
    e = np.asarray(exponents, np.int64)
    whole = (e >> _GRID_BITS) - 30
    mantissas: Array = _MANTISSAS[e & (EXPONENT_GRID - 1)]
    return np.ldexp(mantissas, whole.astype(np.int32))


def exponents(values: Array) -> NDArray[np.int64]:
    """The e with 2^(e / 32) nearest to each value > 0, on the logarithmic scale; 0 for zeros."""
    positive = np.where(values > 0, values, 1.0)
    return np.round(EXPONENT_GRID * np.log2(positive)).astype(np.int64)


@dataclass(frozen=True)
class Factors:
    """``dW = B A``: B (m, r), A (r, n), float64, scale inside B."""

    B: Array
    A: Array

    def squared_norm(self) -> float:
        """Squared Frobenius norm, without forming (m, n)."""
        return float(np.sum((self.B.T @ self.B) * (self.A @ self.A.T)))

    def inner(self, other: Factors) -> float:
        """Frobenius inner product with another low-rank matrix of the same (m, n)."""
        return float(np.sum((self.B.T @ other.B) * (self.A @ other.A.T)))


@dataclass(frozen=True)
class Thin:
    """Thin SVD of a low-rank matrix: ``dW = U diag(s) V^T``, U (m, k), s (k,) falling, V (n, k)."""

    U: Array
    s: Array
    V: Array

    @property
    def energy(self) -> float:
        """Squared Frobenius norm."""
        return float(self.s @ self.s)


def symmetric_inverse(gram: Array) -> Array:
    """Inverse of a symmetric positive matrix, (k, k); the pseudo-inverse where it is singular."""
    values, vectors = np.linalg.eigh(gram)
    sound = values > 1e-12 * max(values[-1], 0.0) if values.size else np.zeros(0, bool)
    kept = vectors[:, sound]
    inverse: Array = (kept / values[sound]) @ kept.T
    return inverse


@dataclass(frozen=True)
class Basis:
    """A decoded shared basis: vectors (N, q), near unit length and near orthogonal."""

    vectors: Array

    @property
    def q(self) -> int:
        return int(self.vectors.shape[1])

    @cached_property
    def orthonormal(self) -> Array:
        """An orthonormal basis of the same space, (N, q)."""
        found: Array = np.linalg.qr(self.vectors)[0]
        return found

    @cached_property
    def _inverse(self) -> Array:
        return symmetric_inverse(self.vectors.T @ self.vectors)

    def coordinates(self, x: Array) -> Array:
        """Least-squares coordinates (q, k) of the columns of ``x`` (N, k)."""
        found: Array = self._inverse @ (self.vectors.T @ x)
        return found


def thin(B: Array, A: Array) -> Thin:
    """Thin SVD of ``B A`` through the small core; rank cut at eps * max(m, n) * s_0, signs fixed.

    B (m, r), A (r, n). The largest entry of each column of V is positive, so that equal products
    give equal factors. O((m + n) r^2 + r^3); never forms (m, n). Exact zeros give k = 0.
    """
    qb, rb = np.linalg.qr(B)
    qa, ra = np.linalg.qr(A.T)
    u, s, vt = np.linalg.svd(rb @ ra.T)
    rank = s.size
    cutoff = np.finfo(np.float64).eps * max(B.shape[0], A.shape[1]) * (s[0] if rank else 0.0)
    keep = int(np.count_nonzero(s > cutoff))
    U, V = qb @ u[:, :keep], qa @ vt[:keep].T
    if keep:
        peak = np.abs(V).argmax(axis=0)
        sign = np.sign(V[peak, np.arange(keep)])
        U, V = U * sign, V * sign
    return Thin(U, s[:keep], V)
