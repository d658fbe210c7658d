"""Strongest directions of stacked vectors, by whichever way takes least for their shape."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hydraopt.linalg.shapes import Array

__all__ = [
    "MOST_DIRECTIONS",
    "ROUNDS",
    "SPARE",
    "Stacked",
    "by_chance",
    "by_scatter",
    "strongest",
]

MOST_DIRECTIONS = 512
"""Beyond, so many, the strongest. In the sets so far no basis of more has paid."""
_CHANCE = 1.05
"""Times what chance makes, up to which tasks count as having nothing in common."""
SPARE, ROUNDS = 32, 3
"""Directions tried beyond those asked for, and power iterations, of the randomised method."""

Stacked = NDArray[np.float32]


def _by_task(rows: Array, scales: Sequence[Array]) -> list[Array]:
    edges = np.cumsum([0, *(s.size for s in scales)])
    return [rows[a:b] for a, b in itertools.pairwise(edges)]


def by_chance(stacked: Stacked, d: Array, scales: Sequence[Array]) -> bool:
    """Return whether tasks' vectors ``stacked * d`` have no more in common than random ones.

    Then no basis saves anything, since independent sources are best coded apart.
    Of random vectors of this length the squared inner products sum up to the product of the tasks'
    energies over the length.

    scales: d by task, in any unit.
    """
    weight = d.astype(np.float32)
    gram = (stacked.T @ stacked) * np.outer(weight, weight)
    energies = np.array([float(x @ x) for x in _by_task(d, scales)])
    others = energies.sum() ** 2 - energies @ energies
    overlap = float(np.linalg.norm(gram)) ** 2 - float(np.sum(d**4))
    return overlap * len(stacked) < _CHANCE * float(others)


def by_scatter(stacked: Stacked, d: Array) -> tuple[Array, Array]:
    """Return all N eigenvalues of ``X X^T`` (N, N) and the vectors, as :func:`strongest` does.

    For more vectors than they have numbers. Eigenvalues near 0 have no useful vectors.
    """
    x = stacked * d
    energy, u = np.linalg.eigh(x @ x.T)
    return energy, (x.T @ u) / np.sqrt(np.maximum(energy, 1e-300))


def strongest(stacked: Stacked, d: Array) -> tuple[Array, Array]:
    """Return the largest eigenvalues of ``X^T X`` for X = stacked * d, rising, and vectors (S, q).

    By the randomised range finder, from one start always: O(N S q) where all directions take
    O(N S^2 + S^3). In float32, so what is below 1e-5 of the largest value is rounding.

    Source: Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 2011,
    arXiv 0909.4061, algorithm 4.4. Columns are made orthonormal once a round: those of X^T left are
    graded by size, which the next QR stands.
    """
    n, size = stacked.shape
    unit = float(d.max()) or 1.0  # Any weight is allowed, and its square need not be a float32.
    x = stacked * (d / unit).astype(np.float32)
    tried = min(MOST_DIRECTIONS + SPARE, n, size)
    probe = np.random.default_rng(0).standard_normal((size, tried), dtype=np.float32)
    for _ in range(ROUNDS):
        probe = x.T @ np.linalg.qr(x @ probe)[0]
    rows = np.linalg.qr(probe)[0]
    image = (x @ rows).astype(np.float64)
    energy, turn = np.linalg.eigh(image.T @ image)
    return energy[-MOST_DIRECTIONS:] * unit**2, rows @ turn[:, -MOST_DIRECTIONS:]
