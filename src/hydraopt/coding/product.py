"""Product whose every bit is defined, the same for readers in any language."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.compiled import LENT, njit
from hydraopt.linalg.shapes import Array
from hydraopt.machinecode import INLINED, address_of, machine_code

__all__ = ["load", "product"]

_ROWS: Final = 1024
"""Rows at a time, so that a column and its sums stay in the cache nearest to the processor."""
_PROTOTYPE: Final = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 3)
# int64_t product(const double *columns, const double *right, double *out, int64_t vectors,
#                 int64_t parts, int64_t count)
# columns (vectors, count), right (vectors, parts), out (parts, count).


def product(left: Array, right: NDArray[np.float64] | NDArray[np.int32]) -> Array:
    """Return ``left @ right``, (N, q) times (q, k), in a fixed order of sums.

    Products of column 0 of ``left`` come first, then of column 1 and so on, each rounded, then
    added to the sum, which is rounded again.

    A BLAS adds up in an order of its own, which differs from machine to machine.
    """
    add = load()
    columns = np.ascontiguousarray(left.T, np.float64)
    numbers = np.ascontiguousarray(right, np.float64)
    out = np.zeros((right.shape[1], left.shape[0]))
    if columns.shape[0] != numbers.shape[0]:
        raise ValueError(f"a product of {left.shape} and {right.shape}")
    if add is None:
        _add_products(columns, numbers, out)
    else:
        add(*(address_of(x) for x in (columns, numbers, out)), *numbers.shape, left.shape[0])
    return out.T


@njit(**LENT, **INLINED)
def _add_products(columns: Array, right: Array, out: Array) -> None:
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


@cache
def load() -> Any:
    """Return the loop as a C function; None if there is no machine code but numba's own."""
    addresses = machine_code(("product",), [Path(__file__)], _compile)
    return None if addresses is None else _PROTOTYPE(addresses["product"])


def _compile() -> dict[str, Any]:
    import numba

    untyped: Any = numba  # its annotations know none of the signatures below
    carray, cfunc, types = untyped.carray, untyped.cfunc, untyped.types
    whole, doubles = types.int64, types.CPointer(types.float64)

    @cfunc(whole(doubles, doubles, doubles, whole, whole, whole), nopython=True, **INLINED)
    def product(columns, right, out, vectors, parts, count):  # type: ignore[no-untyped-def]
        _add_products(
            carray(columns, (vectors, count)),
            carray(right, (vectors, parts)),
            carray(out, (parts, count)),
        )
        return 0

    return {"product": product}
