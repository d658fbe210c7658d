"""Strongest directions of a large matrix, from products with it alone.

Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 2011, arXiv
0909.4061, algorithm 4.4: random columns, pulled towards the strongest directions by rounds of
multiplications with X and its transpose, orthonormal again in each round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["dominant_range"]

Matrix = TypeVar("Matrix", NDArray[np.float32], NDArray[np.float64])


def dominant_range(
    image: Callable[[Matrix], Matrix],
    back: Callable[[Matrix], Matrix],
    probe: Matrix,
    rounds: int,
) -> tuple[Matrix, Matrix]:
    """Return (left, X^T left): left (N, k) orthonormal, in the strongest directions of X (N, n).

    image, back: what multiplies by X and by X^T. probe: (n, k), random. rounds: at least 1; each
    costs two products. Columns are made orthonormal once a round: those of X^T left are graded by
    size, which the next QR stands.
    """
    for _ in range(rounds):
        left = np.linalg.qr(image(probe))[0]
        probe = back(left)
    return left, probe
