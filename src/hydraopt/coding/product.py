"""Loop of a product whose every bit is defined, the same for readers in any language.

:func:`hydraopt.coding.decoder.product` calls it.
"""

from __future__ import annotations

from typing import Final

from hydraopt.compiled import LENT, njit
from hydraopt.linalg.shapes import Array
from hydraopt.machinecode import INLINED

__all__ = ["add_products"]

_ROWS: Final = 1024
"""Rows at a time, so that a column and its sums stay in the cache nearest to the processor."""


@njit(**LENT, **INLINED)
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
