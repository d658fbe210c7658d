"""Product whose every bit is defined, the same for readers in any language."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hydraopt.coding import loops
from hydraopt.linalg.shapes import Array

__all__ = ["product"]


def product(left: Array, right: NDArray[np.float64] | NDArray[np.int32]) -> Array:
    """Return ``left @ right``, (N, q) times (q, k), in a fixed order of sums.

    Products of column 0 of ``left`` come first, then of column 1 and so on, each rounded, then
    added to the sum, which is rounded again.

    A BLAS adds up in an order of its own, which differs from machine to machine.
    """
    columns = np.ascontiguousarray(left.T, np.float64)
    numbers = np.ascontiguousarray(right, np.float64)
    out = np.zeros((right.shape[1], left.shape[0]))
    loops.add_products(columns, numbers, out)
    return out.T
