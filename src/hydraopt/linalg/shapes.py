"""Data types passed between the stages.

Letters: T tasks; a module has m outputs and n inputs; ``dW = B A`` with B (m, r), A (r, n) and the
adapter's scale inside B. A *part* is one rank-one term of a task's dW in a module; k counts parts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Factors", "Thin"]

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
