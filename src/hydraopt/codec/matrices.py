"""Thin SVDs, bases and norms of low-rank products; one rule for rounding noise.

Letters: T tasks; a module has m outputs and n inputs; ``dW = B A`` with B (m, r), A (r, n) and the
adapter's scale inside B. A *part* is one rank-one term of a task's dW in a module; k counts parts.

A value counts if it is above a share of the largest. The share says where the values come from.

A norm from Gram matrices (:meth:`Factors.squared_norm`) is cheaper, and of a small difference of
large products it is only rounding.

LAPACK takes as long to be called as to decompose a factor of rank 8, so the factors are reduced by
their Gram matrices, all in one go, where these tell enough; where not, one by one through QR.
Every product is computed by itself: what else is in the stack changes no bit of its result.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[np.float64]


class Factors(NamedTuple):
    """Factors ``dW = B A``: B (m, r), A (r, n), float64, scale inside B."""

    B: Array
    A: Array

    @classmethod
    def of(cls, b: NDArray[np.floating[Any]], a: NDArray[np.floating[Any]]) -> Factors:
        """Convert factors of any float type, as from ``LowRankModule.factors``, to float64."""
        return cls(b.astype(np.float64), a.astype(np.float64))

    def squared_norm(self) -> float:
        """Return the squared Frobenius norm, without forming (m, n)."""
        return float(np.sum((self.B.T @ self.B) * (self.A @ self.A.T)))

    def inner(self, other: Factors) -> float:
        """Return the Frobenius inner product with another low-rank matrix of the same (m, n)."""
        return float(np.sum((self.B.T @ other.B) * (self.A @ other.A.T)))


class Thin(NamedTuple):
    """Thin SVD of a low-rank matrix: ``dW = U diag(s) V^T``, U (m, k), s (k,) falling, V (n, k)."""

    U: Array
    s: Array
    V: Array

    @property
    def energy(self) -> float:
        """Squared Frobenius norm."""
        return float(self.s @ self.s)


GRAM: Final = 1e-12
"""Share for eigenvalues of a float64 Gram matrix.
They are squares, each off by about its size times eps of the largest, which for the bases in use is
below 1e-12."""

STORED_IN_FLOAT32: Final = 1e-13
"""Share for squared singular values of a matrix that was held in float32.
Directions below 3e-7 of the strongest are rounding."""

COINCIDENT: Final = 1e-9
"""Share for singular values of unit vectors side by side, which all get one weight afterwards.
Two tasks' vectors that differ by less are one, so this lies well above the rounding of the SVDs
behind them and well below what training or fp16 tells apart."""


def rounding(*sizes: int, dtype: DTypeLike = np.float64) -> float:
    """Return the rounding share of singular values: eps of ``dtype`` times the largest size.

    As in LAPACK and ``numpy.linalg.matrix_rank``.
    """
    return float(np.finfo(np.dtype(dtype)).eps) * max(sizes)


def significant(values: Array, share: float, least: float = 0.0) -> NDArray[np.bool_]:
    """Return the mask of the values above ``share`` of the largest one.

    least: what the largest is taken to be at the least; values far below 1 are then all rounding.
    All values 0 or below, or none at all: nothing is significant.
    """
    largest: Any = values.max(initial=0.0)
    mask: NDArray[np.bool_] = values > share * max(largest, least)
    return mask


def rank_of(values: Array, share: float) -> int:
    """Return the number of significant values."""
    return int(np.count_nonzero(significant(values, share)))


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


_SOUND: Final = 1e4
"""Largest condition of a factor, with columns scaled to one length, that its Gram matrix resolves.
Float64 then leaves directions that are right to 1e-8, and float32 holds 6e-8."""

_Rows = NDArray[np.float32]


def thin_stack(b: Array, a: Array) -> tuple[list[_Rows], list[Array], list[_Rows]]:
    """Return (U^T, s, V^T) of each product ``b_t^T a_t``: lists of (k, m), (k,) and (k, n).

    b (T, r, m), a (T, r, n): the factors' vectors as rows, the scale in either. k, the cut and the
    signs are those of :func:`hydraopt.codec.matrices.thin`; vectors are rounded to float32.
    """
    (lb, ib, sound_b), (la, ia, sound_a) = _roots(b), _roots(a)
    u, s, vt = np.linalg.svd(lb.transpose(0, 2, 1) @ la)
    right = (vt @ ia) @ a
    peak = np.abs(right).argmax(axis=2)[:, :, None]
    sign = np.sign(np.take_along_axis(right, peak, axis=2))
    lefts = ((u.transpose(0, 2, 1) * sign) @ ib @ b).astype(np.float32)
    rights = np.multiply(right, sign, dtype=np.float32, casting="same_kind")
    us, ss, vs = list(lefts), list(s), list(rights)
    cut = (s <= rounding(b.shape[2], a.shape[2]) * s[:, :1]).any(axis=1)
    for t in np.flatnonzero(~(sound_b & sound_a) | cut):
        one = thin(b[t].T, a[t])
        us[t], ss[t], vs[t] = one.U.T.astype(np.float32), one.s, one.V.T.astype(np.float32)
    return us, ss, vs


def _roots(rows: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Return (L, L^-1, sound): the Cholesky factors of ``X X^T`` for each X of rows (T, r, N).

    sound: whether they are accurate enough; where they are not, they are the identity.
    """
    gram = rows @ rows.transpose(0, 2, 1)
    size = gram.shape[1]
    lengths = np.sqrt(np.einsum("tii->ti", gram))
    sound = (lengths > 0).all(axis=1) & (size <= rows.shape[2])
    lengths = np.where(sound[:, None], lengths, 1.0)
    scaled = gram / (lengths[:, :, None] * lengths[:, None, :])
    scaled[~sound] = np.eye(size)
    # Row by row over the whole stack: numpy's own refuses all where one is singular.
    lower = np.zeros_like(scaled)
    for j in range(size):
        rest = scaled[:, j:, j] - np.einsum("tik,tk->ti", lower[:, j:, :j], lower[:, j, :j])
        sound &= rest[:, 0] > 1 / _SOUND**2
        pivot = np.sqrt(np.where(sound, rest[:, 0], 1.0))
        lower[:, j:, j] = np.where(sound[:, None], rest, 0.0) / pivot[:, None]
        lower[:, j, j] = pivot
    lower[~sound] = np.eye(size)
    inverse = np.linalg.inv(lower)
    condition = np.linalg.norm(lower, axis=(1, 2)) * np.linalg.norm(inverse, axis=(1, 2))
    sound &= condition <= _SOUND
    return lower * lengths[:, :, None], inverse / lengths[:, None, :], sound


def inverses(grams: Array) -> Array:
    """Return inverses of symmetric positive matrices (T, k, k); pseudo-inverses if singular.

    As :func:`hydraopt.codec.matrices.symmetric_inverse` of each.
    """
    values, vectors = np.linalg.eigh(grams)
    least = GRAM * np.maximum(values[:, -1:], 0.0)
    sound = values > least
    scaled = vectors * np.where(sound, 1 / np.where(sound, values, 1.0), 0.0)[:, None, :]
    result: Array = scaled @ vectors.transpose(0, 2, 1)
    return result


def symmetric_inverse(gram: Array) -> Array:
    """Return the inverse of a symmetric positive (k, k), or its pseudo-inverse if singular."""
    values, vectors = np.linalg.eigh(gram)
    sound = significant(values, GRAM)
    kept = vectors[:, sound]
    inverse: Array = (kept / values[sound]) @ kept.T
    return inverse


@dataclass(frozen=True)
class Basis:
    """Decoded shared basis: vectors (N, q), near unit length and near orthogonal."""

    vectors: Array

    @property
    def q(self) -> int:
        return int(self.vectors.shape[1])

    @cached_property
    def orthonormal(self) -> Array:
        """Orthonormal basis of the same space, (N, q)."""
        q: Array = np.linalg.qr(self.vectors)[0]
        return q

    @cached_property
    def inverse(self) -> Array:
        """Inverse of the Gram matrix of the vectors, (q, q)."""
        return symmetric_inverse(self.vectors.T @ self.vectors)

    def coordinates(self, x: Array) -> Array:
        """Return least-squares coordinates (q, k) of the columns of ``x`` (N, k)."""
        coordinates: Array = self.inverse @ (self.vectors.T @ x)
        return coordinates


Bases = tuple[Basis | None, Basis | None]
"""Left (m, p) and right (n, q) of a module, None where there is none."""
