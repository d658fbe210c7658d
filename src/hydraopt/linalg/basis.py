"""Bases that tasks share, and least-squares coordinates over them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hydraopt.linalg.cutoff import GRAM, significant
from hydraopt.linalg.shapes import Array

__all__ = ["Bases", "Basis", "symmetric_inverse"]


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
