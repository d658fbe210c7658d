"""Interface of the decoder; its loops may be any machine code with the same functions.

The loops are those of rangedecoder.py and product.py, called as C functions: see
:data:`_PROTOTYPES`. A library that exports the same four may take their place; whatever does, the
numbers are equal.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.coding import product as products
from hydraopt.coding import rangedecoder
from hydraopt.coding.model import MODEL_SIZE
from hydraopt.linalg.shapes import Array
from hydraopt.machinecode import INLINED, machine_code

__all__ = [
    "decode_columns",
    "decode_integer",
    "decode_run",
    "new_decoder",
    "prepare",
    "product",
    "taken",
]

new_decoder = rangedecoder.new_decoder
taken = rangedecoder.taken

_SOURCES: Final = [
    Path(__file__).with_name(f"{x}.py")
    for x in ("decoder", "model", "product", "rangedecoder", "trellis")
]

# int64_t integer(int64_t *state, const uint8_t *data, int64_t size, int32_t *model, int64_t kind)
# int64_t run(state, data, size, model, kind, int64_t *values, int64_t count, int64_t low,
#             int64_t high)
# int64_t columns(state, data, size, model, int32_t *integers, const int64_t *spreads,
#                 int64_t *rows, int64_t columns, int64_t count)
# int64_t product(const double *columns, const double *right, double *out, int64_t vectors,
#                 int64_t parts, int64_t count)
# state: 3 numbers.  model: MODEL_SIZE.  integers: (columns, count).  rows: count.  Of a product:
# columns (vectors, count), right (vectors, parts), out (parts, count).
_STREAM: Final = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)
_WHOLE: Final = ctypes.c_int64
_PROTOTYPES: Final = {
    "integer": ctypes.CFUNCTYPE(_WHOLE, *_STREAM, _WHOLE),
    "run": ctypes.CFUNCTYPE(_WHOLE, *_STREAM, _WHOLE, ctypes.c_void_p, _WHOLE, _WHOLE, _WHOLE),
    "columns": ctypes.CFUNCTYPE(_WHOLE, *_STREAM, *[ctypes.c_void_p] * 3, _WHOLE, _WHOLE),
    "product": ctypes.CFUNCTYPE(_WHOLE, *[ctypes.c_void_p] * 3, _WHOLE, _WHOLE, _WHOLE),
}


def prepare() -> None:
    """Load the machine code, which otherwise the first call does.

    Call it in one thread before several decode at the same time.
    """
    _loops()


def decode_integer(
    state: NDArray[np.int64], data: NDArray[np.uint8], model: NDArray[np.int32], kind: int
) -> int:
    """Decode a side integer; mirrors :func:`hydraopt.coding.rangeencoder.encode_integer`."""
    loops = _loops()
    if loops is None:
        return rangedecoder.decode_integer(state, data, model, kind)
    return int(loops["integer"](*_stream(state, data, model), kind))


def decode_run(
    state: NDArray[np.int64],
    data: NDArray[np.uint8],
    model: NDArray[np.int32],
    kind: int,
    values: NDArray[np.int64],
    low: int,
    high: int,
) -> bool:
    """Decode integers of one kind and return whether all lie in [low, high].

    Mirrors :func:`hydraopt.coding.rangeencoder.encode_run`.
    """
    loops = _loops()
    if loops is None:
        return rangedecoder.decode_run(state, data, model, kind, values, low, high)
    out = _pointer(values, "int64")
    return bool(loops["run"](*_stream(state, data, model), kind, out, values.size, low, high))


def decode_columns(
    state: NDArray[np.int64],
    data: NDArray[np.uint8],
    model: NDArray[np.int32],
    integers: NDArray[np.int32],
    spreads: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> bool:
    """Decode and reconstruct columns: ``integers`` (k, N), in steps; updates ``rows``.

    Returns whether all numbers and all sums of rows are such as a writer writes.
    """
    loops = _loops()
    if loops is None:
        return rangedecoder.decode_columns(state, data, model, integers, spreads, rows)
    if integers.shape != (spreads.size, rows.size):
        raise ValueError(f"{integers.shape} integers, {spreads.size} spreads, {rows.size} rows")
    arrays = _pointer(integers, "int32"), _pointer(spreads, "int64"), _pointer(rows, "int64")
    return bool(loops["columns"](*_stream(state, data, model), *arrays, *integers.shape))


def product(left: Array, right: NDArray[np.float64] | NDArray[np.int32]) -> Array:
    """Return ``left @ right``, (N, q) times (q, k), in a fixed order of sums.

    Products of column 0 of ``left`` come first, then of column 1 and so on, each rounded, then
    added to the sum, which is rounded again.

    A BLAS adds up in an order of its own, which differs from machine to machine.
    """
    loops = _loops()
    columns = np.ascontiguousarray(left.T, np.float64)
    numbers = np.ascontiguousarray(right, np.float64)
    out = np.zeros((right.shape[1], left.shape[0]))
    if columns.shape[0] != numbers.shape[0]:
        raise ValueError(f"a product of {left.shape} and {right.shape}")
    if loops is None:
        products.add_products(columns, numbers, out)
    else:
        arrays = (_pointer(x, "float64") for x in (columns, numbers, out))
        loops["product"](*arrays, *numbers.shape, left.shape[0])
    return out.T


def _stream(
    state: NDArray[np.int64], data: NDArray[np.uint8], model: NDArray[np.int32]
) -> tuple[int, int, int, int]:
    return _pointer(state, "int64"), _pointer(data, "uint8"), data.size, _pointer(model, "int32")


def _pointer(array: NDArray[Any], dtype: str) -> int:
    """Return the address of an array's data.

    The C code assumes a contiguous array of ``dtype``. Raises ValueError for any other.
    """
    if array.dtype != dtype or not array.flags.c_contiguous:
        raise ValueError(f"an array of {array.dtype}, expected {dtype} in one piece")
    return array.ctypes.data


@cache
def _loops() -> Mapping[str, Any] | None:
    """Return the C functions; None if there is no machine code but numba's own."""
    addresses = machine_code(tuple(_PROTOTYPES), _SOURCES, _compile)
    if addresses is None:
        return None
    return {name: prototype(addresses[name]) for name, prototype in _PROTOTYPES.items()}


def _compile() -> dict[str, Any]:
    import numba

    untyped: Any = numba  # its annotations know none of the signatures below
    carray, cfunc, types = untyped.carray, untyped.cfunc, untyped.types
    whole, size = types.int64, MODEL_SIZE
    wholes, bytes_, narrow = (types.CPointer(x) for x in (whole, types.uint8, types.int32))
    doubles = types.CPointer(types.float64)
    stream = (wholes, bytes_, whole, narrow)

    @cfunc(whole(*stream, whole), nopython=True, **INLINED)
    def integer(state, data, count, model, kind):  # type: ignore[no-untyped-def]
        return rangedecoder.decode_integer(
            carray(state, 3), carray(data, count), carray(model, size), kind
        )

    @cfunc(whole(*stream, whole, wholes, whole, whole, whole), nopython=True, **INLINED)
    def run(state, data, count, model, kind, values, many, low, high):  # type: ignore[no-untyped-def]
        return int(
            rangedecoder.decode_run(
                carray(state, 3),
                carray(data, count),
                carray(model, size),
                kind,
                carray(values, many),
                low,
                high,
            )
        )

    @cfunc(whole(*stream, narrow, wholes, wholes, whole, whole), nopython=True, **INLINED)
    def columns(state, data, count, model, integers, spreads, rows, k, n):  # type: ignore[no-untyped-def]
        return int(
            rangedecoder.decode_columns(
                carray(state, 3),
                carray(data, count),
                carray(model, size),
                carray(integers, (k, n)),
                carray(spreads, k),
                carray(rows, n),
            )
        )

    @cfunc(whole(doubles, doubles, doubles, whole, whole, whole), nopython=True, **INLINED)
    def product(columns, right, out, vectors, parts, count):  # type: ignore[no-untyped-def]
        products.add_products(
            carray(columns, (vectors, count)),
            carray(right, (vectors, parts)),
            carray(out, (parts, count)),
        )
        return 0

    return {"integer": integer, "run": run, "columns": columns, "product": product}
