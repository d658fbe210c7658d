"""Thin SVDs of many low-rank products of one shape at once.

LAPACK takes as long to be called as to decompose a factor of rank 8, so the factors are reduced by
their Gram matrices, all in one go, where these tell enough; where not, one by one through QR.
Every product is computed by itself: what else is in the stack changes no bit of its result.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.linalg.cutoff import GRAM, rounding
from hydraopt.linalg.shapes import Array
from hydraopt.linalg.svd import thin

__all__ = ["inverses", "thin_stack"]

_SOUND: Final = 1e4
"""Largest condition of a factor, with columns scaled to one length, that its Gram matrix resolves.
Float64 then leaves directions that are right to 1e-8, and float32 holds 6e-8."""

_Rows = NDArray[np.float32]


def thin_stack(b: Array, a: Array) -> tuple[list[_Rows], list[Array], list[_Rows]]:
    """Return (U^T, s, V^T) of each product ``b_t^T a_t``: lists of (k, m), (k,) and (k, n).

    b (T, r, m), a (T, r, n): the factors' vectors as rows, the scale in either. k, the cut and the
    signs are those of :func:`hydraopt.linalg.svd.thin`; vectors are rounded to float32.
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

    As :func:`hydraopt.linalg.basis.symmetric_inverse` of each.
    """
    values, vectors = np.linalg.eigh(grams)
    least = GRAM * np.maximum(values[:, -1:], 0.0)
    sound = values > least
    scaled = vectors * np.where(sound, 1 / np.where(sound, values, 1.0), 0.0)[:, None, :]
    result: Array = scaled @ vectors.transpose(0, 2, 1)
    return result
