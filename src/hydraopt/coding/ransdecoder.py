"""Loops of the decoder; mirrors ransencoder.py.

They never read outside the data, and stop soon after its end, so a damaged stream gives wrong
numbers but no crash; stream.py checks what may be allocated.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.coding.spread import MAX_SPREAD
from hydraopt.coding.tables import (
    ESCAPE,
    FIRST_SPREAD,
    LEAST_STATE,
    MIDDLE,
    ONE,
    SHAPES,
    TOTAL,
    TOTAL_BITS,
    ZERO,
    Kind,
    half_of,
    level_table,
    shift_of,
)
from hydraopt.coding.trellis import next_state
from hydraopt.compiled import INNER, njit
from hydraopt.kernels import kernel

__all__ = ["BEYOND", "MOST_NUMBER", "MOST_SIDE", "decode_block", "decode_numbers"]

MOST_SIDE: Final = 1 << 30
"""Every |side integer| is below; part of the format."""
MOST_NUMBER: Final = 1 << 27
"""Largest |integer| of a block, in steps; part of the format, so that 32 bits are enough."""
BEYOND: Final = 64
"""Number of words past the end of a chunk at which decoding of a block stops."""
_FIRST: Final = Kind.FIRST_CLASS.table
_NEXT: Final = Kind.NEXT_CLASS.table
_AFTER: Final = Kind.AFTER_NORMAL.table
_FIRST_OFFSET: Final = Kind.FIRST_CLASS.offset
_shift_of = njit(**INNER)(shift_of)
_half_of = njit(**INNER)(half_of)
_level_table = njit(**INNER)(level_table)
_MOST_CLASS: Final = MAX_SPREAD - FIRST_SPREAD + 1


@njit(**INNER)
def _refilled(x: int, at: int, words: NDArray[np.uint16]) -> tuple[int, int]:
    if x < LEAST_STATE:
        x = x << 16 | (int(words[at]) if at < words.size else 0)
        at += 1
    return x, at


@njit(**INNER)
def _raw(x: int, at: int, words: NDArray[np.uint16], width: int) -> tuple[int, int, int]:
    value = x & ((1 << width) - 1)
    x, at = _refilled(x >> width, at, words)
    return value, x, at


@njit(**INNER)
def _escaped(x: int, at: int, words: NDArray[np.uint16]) -> tuple[int, int, int]:
    """Decode a value that has no symbol."""
    width, x, at = _raw(x, at, words, 5)
    high = 0
    if width > 16:
        high, x, at = _raw(x, at, words, width - 16)
    low, x, at = _raw(x, at, words, min(width, 16))
    folded = (1 << width) + (high << 16) + low
    return -(folded >> 1) if folded & 1 else folded >> 1, x, at


@njit(**INNER)
def _number(
    x: int,
    at: int,
    words: NDArray[np.uint16],
    symbols: NDArray[np.uint8],
    slots: NDArray[np.uint32],
    table: int,
    shift: int,
) -> tuple[int, int, int]:
    """Decode a number: its symbol in a table, and ``shift`` raw bits."""
    slot = x & (TOTAL - 1)
    index = int(symbols[np.uint64(table), np.uint64(slot)])
    step = int(slots[np.uint64(table), np.uint64(index)])
    x, at = _refilled((step & 0xFFFF) * (x >> TOTAL_BITS) + slot - (step >> 16), at, words)
    value = index - MIDDLE
    if index == ESCAPE:
        value, x, at = _escaped(x, at, words)
    if shift:
        low, x, at = _raw(x, at, words, shift)
        value = (value << shift) + low - _half_of(shift)
    return value, x, at


_STREAM: Final = "int64[:]", "uint16[:]", "uint8[:,:]", "uint32[:,:]"
"""State, words, symbols and slots of :func:`decode_numbers`."""


@kernel(*_STREAM, "int64", "int64", "int64[:]")
def decode_numbers(
    state: NDArray[np.int64],
    words: NDArray[np.uint16],
    symbols: NDArray[np.uint8],
    slots: NDArray[np.uint32],
    table: int,
    shift: int,
    values: NDArray[np.int64],
) -> bool:
    """Decode side integers into ``values`` and return whether all are below MOST_SIDE.

    state (3,): the two states of the coder, the next one first, and the number of words taken.
    symbols (tables, 4096): symbol of each slot.
    slots (tables, 30): frequency (low half) and first slot (high half) of each symbol.
    """
    x, y, at = state[0], state[1], state[2]
    inside = True
    for i in range(values.size):
        value, x, at = _number(x, at, words, symbols, slots, table, shift)
        inside &= -MOST_SIDE < value < MOST_SIDE
        values[i] = value
        x, y = y, x
    state[0], state[1], state[2] = x, y, at
    return inside


@kernel(*_STREAM, "int64", "int32[:,:]", "int64[:]")
def decode_block(
    state: NDArray[np.int64],
    words: NDArray[np.uint16],
    symbols: NDArray[np.uint8],
    slots: NDArray[np.uint32],
    shape: int,
    integers: NDArray[np.int32],
    spreads: NDArray[np.int64],
) -> bool:
    """Decode columns of integers (k, N), in steps, and their spread classes (k,).

    shape: expected shape of the first column.
    integers: zeros, which columns of class 0 keep. A loop that sets them would become a call of
    memset, and the code would need a linker (machinecode.py).

    Returns False for what no writer writes. The other arguments are those of
    :func:`decode_numbers`.
    """
    x, y, at = state[0], state[1], state[2]
    number = 0
    for j in range(spreads.size):
        table = _NEXT if j else _FIRST
        step, x, at = _number(x, at, words, symbols, slots, table, ZERO)
        x, y = y, x
        number += step + (0 if j else _FIRST_OFFSET)
        if number < 0 or number > _MOST_CLASS or at > words.size + BEYOND:
            return False
        spreads[j] = number + FIRST_SPREAD - 1 if number else 0
        if number == 0:
            continue
        shape, x, at = _number(x, at, words, symbols, slots, _AFTER + shape, ZERO)
        x, y = y, x
        if shape < 0 or shape >= SHAPES:
            return False
        shift = _shift_of(number)
        even, odd = _level_table(shape, number, ZERO), _level_table(shape, number, ONE)
        s = np.uint64(0)  # Unsigned, so that no check for a negative index is compiled.
        for i in range(integers.shape[1]):
            q = int(s & np.uint64(1))
            level, x, at = _number(x, at, words, symbols, slots, odd if q else even, shift)
            x, y = y, x
            s = next_state(s, level)
            value = 2 * level - q * (int(level > 0) - int(level < 0))
            if not -MOST_NUMBER <= value <= MOST_NUMBER:
                return False
            integers[j, i] = value
    state[0], state[1], state[2] = x, y, at
    return True
