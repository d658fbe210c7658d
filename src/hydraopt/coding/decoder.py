"""The door to the decoder, behind which its loops may be anybody's machine code.

The loops are those of rangedecoder.py, called as C functions: see :class:`Loops`. A library that
exports the same three may take their place; whatever does, integers are equal.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.coding import rangedecoder
from hydraopt.coding.model import MODEL_SIZE
from hydraopt.machinecode import INLINED, machine_code

__all__ = ["decode_columns", "decode_integer", "decode_run", "new_decoder", "taken"]

new_decoder = rangedecoder.new_decoder
taken = rangedecoder.taken

_SOURCES: Final = [
    Path(__file__).with_name(f"{x}.py") for x in ("decoder", "model", "rangedecoder", "trellis")
]

# int64_t integer(int64_t *state, const uint8_t *data, int64_t size, int32_t *model, int64_t kind)
# int64_t run(state, data, size, model, kind, int64_t *values, int64_t count, int64_t low,
#             int64_t high)
# int64_t columns(state, data, size, model, int32_t *integers, const int64_t *spreads,
#                 int64_t *rows, int64_t columns, int64_t count)
# state: 3 numbers.  model: MODEL_SIZE.  integers: (columns, count).  rows: count.
_STREAM: Final = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)
_WHOLE: Final = ctypes.c_int64
_PROTOTYPES: Final = {
    "integer": ctypes.CFUNCTYPE(_WHOLE, *_STREAM, _WHOLE),
    "run": ctypes.CFUNCTYPE(_WHOLE, *_STREAM, _WHOLE, ctypes.c_void_p, _WHOLE, _WHOLE, _WHOLE),
    "columns": ctypes.CFUNCTYPE(_WHOLE, *_STREAM, *[ctypes.c_void_p] * 3, _WHOLE, _WHOLE),
}


def decode_integer(
    state: NDArray[np.int64], data: NDArray[np.uint8], model: NDArray[np.int32], kind: int
) -> int:
    """The next side integer; mirrors :func:`hydraopt.coding.rangeencoder.encode_integer`."""
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
    """The next integers of one kind, and whether all lie in [low, high]; mirrors
    :func:`hydraopt.coding.rangeencoder.encode_run`."""
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
    """The next columns, already reconstructed: ``integers`` (k, N), in steps; updates ``rows``.

    Returns whether all numbers and all sums of rows are such as a writer writes.
    """
    loops = _loops()
    if loops is None:
        return rangedecoder.decode_columns(state, data, model, integers, spreads, rows)
    if integers.shape != (spreads.size, rows.size):
        raise ValueError(f"{integers.shape} integers, {spreads.size} spreads, {rows.size} rows")
    arrays = _pointer(integers, "int32"), _pointer(spreads, "int64"), _pointer(rows, "int64")
    return bool(loops["columns"](*_stream(state, data, model), *arrays, *integers.shape))


def _stream(
    state: NDArray[np.int64], data: NDArray[np.uint8], model: NDArray[np.int32]
) -> tuple[int, int, int, int]:
    return _pointer(state, "int64"), _pointer(data, "uint8"), data.size, _pointer(model, "int32")


def _pointer(array: NDArray[Any], dtype: str) -> int:
    """Where the array's numbers lie; C code believes that they lie in a row and are of dtype."""
    if array.dtype != dtype or not array.flags.c_contiguous:
        raise ValueError(f"an array of {array.dtype}, expected {dtype} in one piece")
    return array.ctypes.data


@cache
def _loops() -> Mapping[str, Any] | None:
    """The three C functions; None where there is no machine code but numba's own."""
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

    return {"integer": integer, "run": run, "columns": columns}
