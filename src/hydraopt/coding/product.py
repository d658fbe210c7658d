"""Products of matrices of which every bit is defined: a reader in any language has the same.

A BLAS adds up in an order of its own, which differs from machine to machine, and rounds a product
and a sum at once where the processor can.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.compiled import njit
from hydraopt.linalg.shapes import Array

__all__ = ["product"]

_ROWS: Final = 1024
"""Rows at a time, so that a column and its sums stay in the cache nearest to the processor."""


def product(left: Array, right: NDArray[np.float64] | NDArray[np.int32]) -> Array:
    """``left @ right``, (N, q) times (q, k): products of column 0 of ``left`` first, then of
    column 1 and so on, each rounded, then added to the sum, which is rounded again."""
    out = np.zeros((right.shape[1], left.shape[0]))
    columns = np.ascontiguousarray(left.T)
    _add_products(columns, np.ascontiguousarray(right, np.float64), out)
    return out.T


@njit(cache=True, nogil=True)
def _add_products(columns: Array, right: Array, out: Array) -> None:
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
