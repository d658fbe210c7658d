"""Fixed tables of the entropy coder: frequencies of the symbols of levels and side integers.

A symbol 0 to 28 stands for the values -14 to 14, symbol 29 for any other value. A column of levels
uses a table for each quantiser, chosen by its class and shape; each kind of side integer has one.
docs/reference/streams.md is the normative text. loops.c has the same constants.
"""

from __future__ import annotations

import functools
import math
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.coding.frequencies import LEVELS, SIDE

__all__ = [
    "CLASSES",
    "COST_BITS",
    "ESCAPE",
    "FIRST_SPREAD",
    "FREQUENCIES",
    "LEAST_STATE",
    "LEVEL_TABLES",
    "MIDDLE",
    "MOST_NUMBER",
    "MOST_SIDE",
    "PRICES",
    "SHAPES",
    "STARTS",
    "TOTAL",
    "Kind",
    "half_of",
    "level_bits",
    "level_table",
    "shift_of",
    "symbols_of_slots",
]

TOTAL_BITS: Final = 12
TOTAL: Final = 1 << TOTAL_BITS
"""Sum of the frequencies of a table."""
LEAST_STATE: Final = 1 << 16
"""Least value of a coder's state, and its value where a chunk ends; part of the format."""
MIDDLE: Final = 14
"""Symbol of the value 0, and largest value with a symbol."""
ESCAPE: Final = 2 * MIDDLE + 1
SYMBOLS: Final = ESCAPE + 1
CLASSES: Final = 17
"""Classes with a table of each quantiser. Above them, low bits are raw, and four classes that fall
into the same octave share the tables of all higher octaves."""
SHAPES: Final = 3
"""Normal, heavy-tailed and flat columns."""
FIRST_SPREAD: Final = 12
"""Spread class (see spread.py) that a stream calls 1; a column of zeros has class 0 there."""
MOST_SIDE: Final = 1 << 30
"""Every |side integer| is below; part of the format."""
MOST_NUMBER: Final = 1 << 27
"""Largest |integer| of a block, in steps; part of the format, so that 32 bits are enough."""
_EACH: Final = 2 * CLASSES + 4
LEVEL_TABLES: Final = SHAPES * _EACH


class Kind(IntEnum):
    """Kinds of side integers, each with a table; part of the format."""

    COUNT = 0
    MODE = 1
    FIRST_CLASS = 2
    NEXT_CLASS = 3
    EXPONENT = 4
    AFTER_NORMAL = 5
    AFTER_HEAVY = 6
    AFTER_FLAT = 7

    @property
    def table(self) -> int:
        return LEVEL_TABLES + self

    @property
    def offset(self) -> int:
        """Value that the symbol of 0 stands for."""
        return {Kind.COUNT: 10, Kind.FIRST_CLASS: 16}.get(self, 0)

    @property
    def shift(self) -> int:
        """Number of low bits that are raw."""
        return 3 if self is Kind.EXPONENT else 0


def shift_of(number: int) -> int:
    """Return the number of low bits of the levels of a class that are raw."""
    return 0 if number <= CLASSES else (number - CLASSES + 3) >> 2


def half_of(shift: int) -> int:
    """Return the number added to a value before its raw bits are cut off, so that symbols round."""
    return 1 << shift >> 1


def level_table(shape: int, number: int, quantiser: int) -> int:
    """Return the index of the table of a class of at least 1."""
    if number <= CLASSES:
        return shape * _EACH + 2 * (number - 1) + quantiser
    return shape * _EACH + 2 * CLASSES + (number - CLASSES - 1) % 4


def _frequencies() -> NDArray[np.int32]:
    table = np.zeros((LEVEL_TABLES + len(Kind), SYMBOLS), np.int32)
    for row, halves in zip(table, LEVELS + [[]] * len(Kind), strict=True):
        for magnitude, frequency in enumerate(halves):
            row[MIDDLE + magnitude] = row[MIDDLE - magnitude] = frequency
    table[LEVEL_TABLES:, :ESCAPE] = SIDE
    table[:, ESCAPE] = TOTAL - table.sum(axis=1)
    return table


FREQUENCIES: Final = _frequencies()
"""(tables, 30), slots of each symbol out of 4096; 0 for a value that is written as an escape."""
STARTS: Final = (np.cumsum(FREQUENCIES, axis=1) - FREQUENCIES).astype(np.int32)
"""(tables, 30), first slot of each symbol, which has as many slots as its frequency."""
COST_BITS: Final = 8
"""Prices are in units of 2^-COST_BITS bits."""


def _prices() -> NDArray[np.int32]:
    frequencies, places = np.unique(FREQUENCIES, return_inverse=True)
    bits = (math.log2(TOTAL / x) if x else 0.0 for x in frequencies.tolist())
    each = [max(round(x * (1 << COST_BITS)), 1) if x else 0 for x in bits]
    return np.array(each, np.int32)[places].reshape(FREQUENCIES.shape)


PRICES: Final = _prices()
"""(tables, 30), price of each symbol in 1/256 bit; 0 for a value that is written as an escape."""


@functools.cache
def symbols_of_slots() -> NDArray[np.uint8]:
    """Return the symbol of each slot, (tables, 4096)."""
    symbols = np.arange(SYMBOLS, dtype=np.uint8)
    return np.stack([np.repeat(symbols, row) for row in FREQUENCIES])


def _escape_bits(value: int) -> int:
    """Return the raw bits of a value after the escape symbol."""
    folded = 2 * value if value > 0 else 1 - 2 * value
    return 5 + folded.bit_length() - 1


_PRICED: Final = 64


@functools.cache
def level_bits(number: int) -> NDArray[np.float64]:
    """Return the bits of |level| = 0..64 in both quantisers of a normal column, (2, 65)."""
    shift = shift_of(number)
    bits = np.empty((2, _PRICED + 1))
    for q in (0, 1):
        row = PRICES[level_table(0, number, q)]
        for level in range(_PRICED + 1):
            prices = []
            for value in (level, -level):
                symbol = (value + half_of(shift)) >> shift
                raw, price = shift, row[symbol + MIDDLE] if abs(symbol) <= MIDDLE else 0
                if price == 0:
                    raw, price = shift + _escape_bits(symbol), row[ESCAPE]
                prices.append(raw + price / (1 << COST_BITS))
            bits[q, level] = sum(prices) / 2
    return bits
