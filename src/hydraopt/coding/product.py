"""Product whose every bit is defined, the same for readers in any language."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.kernels import kernel
from hydraopt.linalg.shapes import Array

__all__ = ["add_products", "product"]

_ROWS: Final = 1024
"""Rows at a time, so that a column and its sums stay in the cache nearest to the processor."""


def product(left: Array, right: NDArray[np.float64] | NDArray[np.int32]) -> Array:
    """Return ``left @ right``, (N, q) times (q, k), in a fixed order of sums.

    Products of column 0 of ``left`` come first, then of column 1 and so on, each rounded, then
    added to the sum, which is rounded again.

    A BLAS adds up in an order of its own, which differs from machine to machine.
    """
    columns = np.ascontiguousarray(left.T, np.float64)
    numbers = np.ascontiguousarray(right, np.float64)
    out = np.zeros((right.shape[1], left.shape[0]))
    if columns.shape[0] != numbers.shape[0]:
        raise ValueError(f"a product of {left.shape} and {right.shape}")
    add_products(columns, numbers, out)
    return out.T


@kernel("float64[:,:]", "float64[:,:]", "float64[:,:]")
def add_products(columns: Array, right: Array, out: Array) -> None:
    """Add ``columns^T right`` to ``out^T``: columns (q, N), right (q, k), out (k, N)."""
    # Without fastmath neither the order of sums is changed nor a product fused with a sum.
    count = out.shape[1]
    for start in range(0, count, _ROWS):
        stop = min(start + _ROWS, count)
        for c in range(out.shape[0]):
            row = out[c, start:stop]
            for j in range(columns.shape[0]):
                factor = right[j, c]
                if factor != 0:  # Adding 0 changes no bit: no sum is -0.
                    column = columns[j, start:stop]
                    for i in range(row.size):
                        row[i] += factor * column[i]
