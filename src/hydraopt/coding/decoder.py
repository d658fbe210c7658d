"""Decoder of a chunk. Its loops may be any machine code with the same functions.

The loops are those of ransdecoder.py, called as C functions: see :data:`_PROTOTYPES`. A library
that exports both may replace them and must give equal numbers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.coding import product, ransdecoder
from hydraopt.coding.tables import FREQUENCIES, LEAST_STATE, STARTS, TOTAL, symbols_of_slots
from hydraopt.machinecode import INLINED, address_of, machine_code

__all__ = ["ChunkDecoder", "prepare"]

_SOURCES: Final = [
    Path(__file__).with_name(f"{x}.py")
    for x in ("decoder", "frequencies", "ransdecoder", "spread", "tables", "trellis")
]

# int64_t numbers(int64_t *state, const uint16_t *words, int64_t size, const uint8_t *symbols,
#                 const uint32_t *slots, int64_t table, int64_t shift, int64_t *values,
#                 int64_t count)
# int64_t block(state, words, size, symbols, slots, int64_t shape, int32_t *integers,
#               int64_t *spreads, int64_t columns, int64_t count)
# state: 3 numbers.  symbols: (tables, 4096).  slots: (tables, 30).  integers: (columns, count).
_PLACE: Final = ctypes.c_void_p
_WHOLE: Final = ctypes.c_int64
_STREAM: Final = (_PLACE, _PLACE, _WHOLE, _PLACE, _PLACE)
_PROTOTYPES: Final = {
    "numbers": ctypes.CFUNCTYPE(_WHOLE, *_STREAM, _WHOLE, _WHOLE, _PLACE, _WHOLE),
    "block": ctypes.CFUNCTYPE(_WHOLE, *_STREAM, _WHOLE, _PLACE, _PLACE, _WHOLE, _WHOLE),
}


def prepare() -> None:
    """Load the machine code, which otherwise the first call does.

    Call it in one thread before several decode at the same time.
    """
    _loops()
    product.load()
    _tables()


@cache
def _tables() -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Return the symbol of each slot, and frequency and first slot of each symbol."""
    slots = (FREQUENCIES | STARTS << 16).astype(np.uint32)
    return symbols_of_slots(), slots


class ChunkDecoder:
    """Decoder of one chunk. It reads zeros past the end of the bytes.

    sound: whether it begins as a chunk does. passed: whether it has read far past the end. ended:
    whether it stands where the encoder started. position: bytes taken.
    """

    def __init__(self, data: bytes) -> None:
        whole = data.ljust(8, b"\0")
        self._size = len(data)
        states = np.frombuffer(whole[:8], "<u4").astype(np.int64)
        self.sound = len(data) % 2 == 0 and bool(states.min() >= LEAST_STATE)
        self._words = np.frombuffer(whole[8 : len(whole) & ~1], "<u2").astype(np.uint16)
        self._state = np.array([*states, 0], np.int64)
        self._arrays = (self._state, self._words, *_tables())
        places = [address_of(x) for x in self._arrays]
        self._stream = (*places[:2], self._words.size, *places[2:])

    @property
    def position(self) -> int:
        return min(8 + 2 * int(self._state[2]), self._size)

    @property
    def passed(self) -> bool:
        return int(self._state[2]) > self._words.size + ransdecoder.BEYOND

    @property
    def ended(self) -> bool:
        end = [LEAST_STATE, LEAST_STATE, self._words.size]
        return self._state.tolist() == end and self.sound

    def numbers(self, table: int, shift: int, count: int) -> NDArray[np.int64] | None:
        """Decode side integers; None if one is too large."""
        values, loops = np.empty(count, np.int64), _loops()
        if loops is None:
            inside = ransdecoder.decode_numbers(*self._arrays, table, shift, values)
        else:
            inside = loops["numbers"](*self._stream, table, shift, address_of(values), count)
        return values if inside else None

    def block(
        self, columns: int, count: int, shape: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]] | None:
        """Decode spread classes and integers (columns, count); None for what no writer writes."""
        integers, spreads = np.zeros((columns, count), np.int32), np.empty(columns, np.int64)
        loops = _loops()
        if loops is None:
            inside = ransdecoder.decode_block(*self._arrays, shape, integers, spreads)
        else:
            places = address_of(integers), address_of(spreads)
            inside = loops["block"](*self._stream, shape, *places, columns, count)
        return (spreads, integers) if inside else None


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
    whole = types.int64
    wholes, narrow = types.CPointer(whole), types.CPointer(types.int32)
    words, symbols, slots = (types.CPointer(x) for x in (types.uint16, types.uint8, types.uint32))
    stream, tables = (wholes, words, whole, symbols, slots), FREQUENCIES.shape

    @cfunc(whole(*stream, whole, whole, wholes, whole), nopython=True, **INLINED)
    def numbers(state, data, size, of_slots, of_symbols, table, shift, values, count):  # type: ignore[no-untyped-def]
        return int(
            ransdecoder.decode_numbers(
                carray(state, 3),
                carray(data, size),
                carray(of_slots, (tables[0], TOTAL)),
                carray(of_symbols, tables),
                table,
                shift,
                carray(values, count),
            )
        )

    @cfunc(whole(*stream, whole, narrow, wholes, whole, whole), nopython=True, **INLINED)
    def block(state, data, size, of_slots, of_symbols, shape, integers, spreads, k, n):  # type: ignore[no-untyped-def]
        return int(
            ransdecoder.decode_block(
                carray(state, 3),
                carray(data, size),
                carray(of_slots, (tables[0], TOTAL)),
                carray(of_symbols, tables),
                shape,
                carray(integers, (k, n)),
                carray(spreads, k),
            )
        )

    return {"numbers": numbers, "block": block}
