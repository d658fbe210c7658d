"""Encoder of the entropy coder: rANS over fixed tables, the same bytes on every machine.

What is written becomes steps first, because rANS codes a chunk from its end. A step is a symbol of
a table, or up to sixteen raw bits. docs/reference/streams.md is the normative text of the coder;
steps are no part of the format.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.coding.tables import (
    COST_BITS,
    ESCAPE,
    MIDDLE,
    ONE,
    SHAPES,
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

__all__ = [
    "COUNT",
    "MOST_STEPS",
    "PRICE",
    "emit_block",
    "emit_numbers",
    "encode",
    "new_meter",
]

COUNT, PRICE = 0, 1
"""Indices of a meter: steps in the buffer; price of all steps so far, in 1/256 bit."""
MOST_STEPS: Final = 9
"""Most steps of a number: a symbol, and two for each of four runs of raw bits."""
Table = NDArray[np.int32]
_shift_of = njit(**INNER)(shift_of)
_half_of = njit(**INNER)(half_of)
_level_table = njit(**INNER)(level_table)
_RAW: Final = 1 << 15
"""Marks the second step of raw bits, which has their width; the first one has the bits."""
_FIRST: Final = Kind.FIRST_CLASS.table
_NEXT: Final = Kind.NEXT_CLASS.table
_AFTER: Final = Kind.AFTER_NORMAL.table
_FIRST_OFFSET: Final = Kind.FIRST_CLASS.offset


def new_meter() -> NDArray[np.int64]:
    """Return the meter of an empty chunk."""
    return np.zeros(2, np.int64)


@njit(**INNER)
def _raw(steps: NDArray[np.uint16], at: int, value: int, width: int) -> int:
    steps[at] = value & ((1 << width) - 1)
    steps[at + 1] = _RAW | width
    return at + 2


@njit(**INNER)
def _width(value: int) -> int:
    """Return the number of raw bits of an escaped value, without the five that state it."""
    folded = 2 * value if value > 0 else 1 - 2 * value
    width = 0
    while folded >> (width + 1):
        width += 1
    return width


@njit(**INNER)
def _emit(
    steps: NDArray[np.uint16], at: int, frequencies: Table, table: int, shift: int, value: int
) -> int:
    """Write the steps of a number: its symbol in a table, and ``shift`` raw bits."""
    value += _half_of(shift)
    symbol = value >> shift
    if abs(symbol) <= MIDDLE and frequencies[table, symbol + MIDDLE]:
        steps[at] = table << 5 | (symbol + MIDDLE)
        at += 1
    else:
        steps[at] = table << 5 | ESCAPE
        folded = 2 * symbol if symbol > 0 else 1 - 2 * symbol
        width = _width(symbol)
        at = _raw(steps, at + 1, width, 5)
        if width > 16:
            at = _raw(steps, at, folded >> 16, width - 16)
        at = _raw(steps, at, folded, min(width, 16))
    if shift:
        at = _raw(steps, at, value, shift)
    return at


@njit(**INNER)
def _price(prices: Table, table: int, shift: int, value: int) -> int:
    """Return the price of a number, in 1/256 bit."""
    symbol = (value + _half_of(shift)) >> shift
    price = prices[table, symbol + MIDDLE] if abs(symbol) <= MIDDLE else 0
    if price == 0:
        price = prices[table, ESCAPE] + ((5 + _width(symbol)) << COST_BITS)
    return int(price) + (shift << COST_BITS)


@kernel("uint16[:]", "int64[:]", "int32[:,:]", "int32[:,:]", "int64", "int64", "int64[:]")
def emit_numbers(
    steps: NDArray[np.uint16],
    meter: NDArray[np.int64],
    frequencies: Table,
    prices: Table,
    table: int,
    shift: int,
    values: NDArray[np.int64],
) -> None:
    """Append side integers. ``steps`` must have MOST_STEPS free places for each."""
    for value in values:
        meter[COUNT] = _emit(steps, meter[COUNT], frequencies, table, shift, value)
        meter[PRICE] += _price(prices, table, shift, value)


@njit(**INNER)
def _shape(
    levels: NDArray[np.int32],
    prices: Table,
    number: int,
    before: int,
    counts: NDArray[np.int64],
) -> tuple[int, int]:
    """Return the shape in which a column (N,) of a class takes the fewest bits, and its price.

    before: shape of the last column. counts (2, SYMBOLS): scratch. The price is in 1/256 bit.
    """
    shift = _shift_of(number)
    half = _half_of(shift)
    counts[:] = 0
    state = np.uint64(0)
    far = 0
    for i in range(levels.size):
        symbol = (levels[i] + half) >> shift
        if abs(symbol) <= MIDDLE:
            counts[state & np.uint64(1), np.uint64(symbol + MIDDLE)] += 1
        else:
            counts[state & np.uint64(1), np.uint64(ESCAPE)] += 1
            far += 5 + _width(symbol)
        state = next_state(state, levels[i])
    best, least = 0, 1 << 62
    for shape in range(SHAPES):
        price = _price(prices, _AFTER + before, ZERO, shape)
        for q in range(2):
            table = _level_table(shape, number, q)
            for index in range(ESCAPE):
                if counts[q, index]:
                    price += counts[q, index] * _price(prices, table, ZERO, index - MIDDLE)
            price += counts[q, ESCAPE] * prices[table, ESCAPE]
        if price < least:
            best, least = shape, price
    return best, least + ((far + shift * levels.size) << COST_BITS)


@kernel(
    "uint16[:]",
    "int64[:]",
    *["int32[:,:]"] * 3,
    *["int64[:]"] * 2,
    "int64[:,:]",
)
def emit_block(
    steps: NDArray[np.uint16],
    meter: NDArray[np.int64],
    frequencies: Table,
    prices: Table,
    levels: NDArray[np.int32],
    numbers: NDArray[np.int64],
    before: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """Append columns of levels (k, N) of the classes (k,), counted as in a stream.

    before (2,): class and shape of the last column, updated; class -1 for a block's first column.
    counts (2, SYMBOLS): scratch. ``steps`` must have MOST_STEPS (N + 2) k free places.
    """
    at = meter[COUNT]
    for j in range(levels.shape[0]):
        number = numbers[j]
        table, step = _NEXT, number - before[0]
        if before[0] < 0:
            table, step = _FIRST, number - _FIRST_OFFSET
        at = _emit(steps, at, frequencies, table, ZERO, step)
        meter[PRICE] += _price(prices, table, ZERO, step)
        before[0] = number
        if number == 0:
            continue
        shape, price = _shape(levels[j], prices, number, before[1], counts)
        at = _emit(steps, at, frequencies, _AFTER + before[1], ZERO, shape)
        before[1] = shape
        shift = _shift_of(number)
        even, odd = _level_table(shape, number, ZERO), _level_table(shape, number, ONE)
        state = np.uint64(0)
        for i in range(levels.shape[1]):
            level: Any = np.int64(levels[j, i])
            table = odd if state & np.uint64(1) else even
            index = np.uint64(level + MIDDLE)  # huge for a level below -MIDDLE
            if shift == 0 and index < ESCAPE and frequencies[np.uint64(table), index]:
                steps[np.uint64(at)] = np.uint64(table << 5) | index
                at += 1
            else:
                at = _emit(steps, at, frequencies, table, shift, level)
            state = next_state(state, level)
        meter[PRICE] += price
    meter[COUNT] = at


@kernel("uint16[:]", "int32[:,:]", "int32[:,:]", "uint64[:]", "uint16[:]")
def encode(
    steps: NDArray[np.uint16],
    frequencies: Table,
    starts: Table,
    states: NDArray[np.uint64],
    out: NDArray[np.uint16],
) -> int:
    """Encode steps from the last one to the first.

    states (2,): of the coder, updated; the last number uses the second one.
    out: as long as ``steps``; filled from the front with words that a reader takes from the end.
    Returns the number of words.
    """
    size, i = np.uint64(0), np.int64(steps.size - 1)
    y, x = states[0], states[1]
    while i >= 0:
        step = np.uint64(steps[np.uint64(i)])
        if step & np.uint64(_RAW):
            width = step & np.uint64(31)
            if x >> (np.uint64(32) - width):
                out[size] = x & np.uint64(0xFFFF)
                size += np.uint64(1)
                x >>= np.uint64(16)
            x = x << width | np.uint64(steps[np.uint64(i - 1)])
            i -= 2
            continue
        table, index = step >> np.uint64(5), step & np.uint64(31)
        frequency = np.uint64(frequencies[table, index])
        if x >> np.uint64(20) >= frequency:
            out[size] = x & np.uint64(0xFFFF)
            size += np.uint64(1)
            x >>= np.uint64(16)
        whole = x // frequency
        rest = x - whole * frequency
        x, y = y, (whole << np.uint64(TOTAL_BITS)) + rest + np.uint64(starts[table, index])
        i -= 1
    states[0], states[1] = y, x
    return int(size)
