"""The small core of one module: merging without a matrix of the size of dW.

Letters as in linalg.shapes: T tasks, a module with m outputs and n inputs, ranks r_t. Here
p <= min(m, sum r) and q <= min(n, sum r) are the widths of the small core.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hydraopt.codec import Array, Factors, halved, in_range
from hydraopt.codec.matrices import rank_of, rounding
from hydraopt.merging.hydra import check_shapes, rank_for, stacked_bases

__all__ = ["SmallCore", "small_core"]


@dataclass(frozen=True)
class SmallCore:
    """``dW_t = left C_t right^T``, exactly: left (m, p), right (n, q) with orthonormal columns.

    sides: ``C_t = B A`` for each task, B (p, r_t) and A (r_t, q). Inner products, norms and
    singular values of the dW's are those of the C_t. These take p q numbers each, T times what the
    sides do, so they are formed one by one and again each time.
    """

    left: Array
    right: Array
    sides: tuple[Factors, ...]

    def core(self, t: int) -> Array:
        """Return C_t, (p, q)."""
        return self.sides[t].B @ self.sides[t].A

    def cores(self) -> Iterator[Array]:
        """Yield all C_t, (p, q), one at a time."""
        return (side.B @ side.A for side in self.sides)

    def weighted(self, weights: Array) -> Array:
        """Return sum_t w_t C_t, (p, q); weights (T,)."""
        total: Array = np.zeros((self.left.shape[1], self.right.shape[1]))
        # A sum of products, not a product of stacks: opposite tasks leave exact zeros.
        for weight, core in zip(weights, self.cores(), strict=True):
            total += weight * core
        return total

    def lift(self, core: Array, rank: int | None = None) -> Factors:
        """Return the factors of ``left core right^T``.

        rank: parts at most; None keeps all that are not zero. B (m, k) and A (k, n) carry the roots
        of the singular values alike, k >= 1. Raises UsageError for a rank below 1.
        """
        limit = core.size if rank is None else rank_for(rank, ())
        u, s, vt = np.linalg.svd(in_range(core), full_matrices=False)
        sound = rank_of(s, rounding(max(self.left.shape[0], self.right.shape[0])))
        small = halved(u, s, vt, max(min(sound, limit), 1))
        return Factors(self.left @ small.B, small.A @ self.right.T)


def small_core(factors: Sequence[Factors]) -> SmallCore:
    """Return the core of one module through a QR of the stacked factors.

    Nothing of size m x n is formed. O((m + n) (sum r)^2). Any other factoring of the same dW's
    gives the same lifted results, to rounding. Raises UsageError for no factors, AlignmentError for
    dW's of different shapes.
    """
    check_shapes(factors)
    left, right = stacked_bases(factors)
    sides = tuple(Factors(left.T @ f.B, f.A @ right) for f in factors)
    return SmallCore(left, right, sides)
