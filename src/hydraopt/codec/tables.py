"""Constants of the format: version, frequencies, spread classes, coefficients.

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

from hydraopt.codec import loops
from hydraopt.codec.matrices import Array

VERSION: Final = 2
"""Format version that is written. Readers accept it and all earlier ones, and get its number."""


# fmt: off
LEVELS: Final = [
    [4091, 2],
    [3541, 277],
    [4089, 3],
    [2527, 784],
    [4069, 13],
    [1491, 1302],
    [3831, 132],
    [929, 1582, 1],
    [3319, 387, 1],
    [685, 1693, 12],
    [2749, 666, 7],
    [565, 1694, 71],
    [2257, 884, 35],
    [477, 1612, 194, 3],
    [1843, 1015, 108, 3],
    [417, 1470, 350, 19],
    [1515, 1054, 218, 17, 1],
    [367, 1307, 490, 64, 3],
    [1251, 1024, 337, 57, 4],
    [333, 1129, 593, 140, 18, 1],
    [1045, 951, 431, 120, 21, 2],
    [287, 978, 635, 231, 52, 7, 1],
    [861, 856, 489, 199, 59, 12, 2],
    [249, 837, 636, 310, 107, 27, 5, 1],
    [719, 755, 504, 271, 111, 36, 9, 2],
    [219, 709, 599, 367, 174, 65, 19, 4, 1],
    [603, 653, 491, 314, 169, 77, 29, 9, 3, 1],
    [195, 598, 552, 386, 230, 113, 48, 17, 5, 1],
    [501, 569, 456, 335, 212, 122, 60, 27, 10, 4, 1, 1],
    [171, 510, 491, 387, 264, 158, 85, 40, 17, 7, 2, 1],
    [415, 485, 413, 327, 244, 162, 100, 57, 28, 14, 6, 3, 1],
    [151, 427, 433, 367, 278, 194, 124, 73, 41, 20, 9, 4, 1, 1],
    [341, 411, 366, 311, 252, 190, 132, 89, 55, 33, 19, 10, 5, 2, 2],
    [137, 359, 372, 332, 275, 213, 158, 108, 70, 43, 25, 13, 7, 3, 1],
    [533, 624, 501, 331, 185, 88, 36, 12, 3, 1],
    [449, 540, 462, 343, 227, 132, 68, 31, 13, 5, 1, 1],
    [377, 462, 415, 337, 248, 171, 106, 61, 32, 15, 7, 3, 1, 1],
    [320, 391, 365, 315, 255, 194, 139, 94, 59, 36, 20, 10, 5, 3, 1],
    [4063, 14, 2],
    [3685, 203, 1, 1],
    [4029, 28, 4, 1],
    [3027, 530, 2, 2],
    [3975, 53, 6, 1],
    [2197, 941, 2, 5, 1],
    [3839, 120, 4, 3, 1],
    [1621, 1199, 28, 8, 1, 1],
    [3649, 197, 21, 4, 1],
    [1283, 1345, 54, 3, 3, 1],
    [3437, 279, 40, 7, 2, 1],
    [1061, 1403, 104, 2, 5, 2, 1],
    [3237, 363, 55, 3, 5, 2, 1],
    [887, 1403, 150, 38, 8, 3, 1, 1],
    [2975, 436, 83, 30, 6, 3, 1, 1],
    [791, 1397, 195, 47, 2, 6, 3, 1, 1],
    [2725, 506, 114, 36, 19, 5, 3, 1, 1],
    [723, 1350, 240, 66, 20, 2, 4, 2, 1, 1],
    [2489, 568, 150, 52, 20, 2, 5, 3, 1, 1, 1],
    [655, 1278, 279, 90, 36, 21, 7, 4, 2, 1, 1, 1],
    [2238, 610, 185, 73, 33, 14, 2, 5, 3, 1, 1, 1],
    [603, 1214, 315, 115, 48, 23, 18, 5, 3, 2, 1, 1, 1],
    [1985, 641, 219, 95, 47, 24, 13, 2, 5, 3, 2, 1, 1, 1, 1],
    [550, 1143, 347, 137, 65, 32, 17, 17, 4, 4, 2, 1, 1, 1, 1],
    [1767, 656, 249, 118, 61, 33, 20, 12, 1, 5, 3, 2, 1, 1, 1],
    [504, 1065, 367, 164, 82, 44, 26, 14, 16, 5, 4, 3, 2, 1, 1],
    [1541, 650, 273, 140, 78, 46, 29, 17, 13, 15, 4, 4, 2, 2, 1],
    [478, 984, 388, 185, 100, 57, 35, 22, 14, 8, 1, 4, 3, 2, 2],
    [1347, 641, 293, 162, 94, 60, 37, 26, 16, 12, 7, 11, 3, 3, 2],
    [439, 895, 395, 206, 118, 71, 46, 31, 20, 14, 9, 7, 1, 4, 3],
    [1180, 622, 304, 176, 109, 73, 49, 34, 24, 17, 12, 11, 7, 1, 4],
    [401, 815, 396, 220, 132, 84, 56, 38, 27, 19, 14, 10, 6, 11, 4],
    [996, 591, 313, 192, 124, 85, 59, 42, 31, 24, 18, 14, 11, 8, 13],
    [383, 734, 392, 230, 145, 98, 67, 49, 35, 26, 19, 15, 11, 8, 5],
    [1234, 751, 306, 153, 84, 49, 29, 19, 12, 9, 5, 4, 3, 2, 1],
    [1089, 716, 321, 172, 101, 62, 40, 27, 18, 13, 9, 7, 4, 3, 3],
    [973, 673, 329, 188, 116, 75, 50, 35, 24, 18, 13, 10, 7, 6, 3],
    [860, 631, 332, 199, 129, 87, 61, 43, 32, 23, 18, 13, 10, 8, 7],
    [4095],
    [4095],
    [4091, 2],
    [2249, 923],
    [4089, 3],
    [1265, 1415],
    [3933, 81],
    [769, 1663],
    [3279, 408],
    [547, 1773, 1],
    [2435, 830],
    [473, 1793, 18],
    [1801, 1145, 2],
    [417, 1691, 148],
    [1453, 1283, 38],
    [363, 1445, 421],
    [1203, 1253, 193],
    [307, 1189, 693, 12],
    [993, 1107, 436, 8],
    [273, 996, 819, 96],
    [817, 942, 618, 79],
    [231, 829, 804, 291, 8],
    [677, 793, 655, 247, 14],
    [203, 691, 719, 459, 76, 1],
    [563, 667, 606, 394, 95, 4],
    [175, 576, 620, 513, 224, 26, 1],
    [463, 558, 531, 441, 233, 50, 3],
    [159, 483, 528, 485, 338, 120, 14],
    [383, 469, 448, 417, 317, 161, 40, 4],
    [137, 402, 440, 430, 370, 236, 86, 14, 1],
    [321, 392, 379, 368, 328, 243, 128, 41, 7, 1],
    [119, 338, 373, 367, 347, 285, 181, 77, 18, 2],
    [267, 330, 321, 316, 303, 266, 197, 118, 48, 13, 2],
    [107, 282, 312, 314, 305, 281, 231, 157, 79, 27, 5, 1],
    [419, 527, 523, 445, 261, 75, 7],
    [353, 446, 448, 417, 326, 176, 52, 6],
    [295, 373, 378, 367, 330, 251, 141, 50, 9, 1],
    [251, 314, 319, 315, 300, 267, 206, 126, 56, 16, 3],
]
"""Of the magnitudes 0, 1, ... of levels; a row for each shape, class and quantiser."""
SIDE: Final = [
    [0, 0, 0, 0, 691, 621, 453, 254, 214, 137, 331, 117, 524, 38, 36, 35, 34, 33, 30, 30, 214, 81,
     18, 16, 17, 17, 17, 16, 22],
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 36, 3008, 953, 16, 17, 16, 16, 16, 16, 0, 0, 0, 0, 0,
     0],
    [135, 228, 229, 196, 212, 219, 215, 211, 210, 176, 150, 122, 114, 103, 110, 110, 110, 114, 112,
     113, 94, 104, 99, 106, 88, 79, 69, 55, 53],
    [7, 9, 11, 21, 28, 47, 73, 102, 144, 176, 247, 392, 639, 1070, 942, 106, 23, 6, 5, 4, 4, 4, 4,
     4, 4, 4, 4, 4, 4],
    [8, 8, 10, 9, 16, 20, 30, 39, 58, 67, 71, 76, 91, 167, 604, 681, 516, 376, 277, 213, 164, 130,
     100, 78, 60, 48, 34, 30, 22],
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3500, 95, 500, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 600, 3275, 220, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1700, 100, 2295, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
]
"""Of the values -14 to 14 of side integers; a row for each kind."""


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


MAX_SPREAD: Final = 92
"""Largest spread class: 2^19 steps, a relative error near 1e-6."""
_UNIT: Final = 16
"""Class of numbers with a root mean square of one step."""
_EACH_CLASS: Final = 4
"""Classes to an octave."""


def spread_of(classes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the root mean square of numbers of these classes, in steps: 2^((class - 16) / 4)."""
    return 2.0 ** ((classes - _UNIT) / _EACH_CLASS)


def spread_classes(spreads: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return round(4 log2(spread)) + 16 in [0, MAX_SPREAD]; spreads are RMS values in steps."""
    classes = np.round(_EACH_CLASS * np.log2(np.maximum(spreads, 1e-9))).astype(np.int64) + _UNIT
    return np.clip(classes, 0, MAX_SPREAD)


EXPONENT_GRID = 32
"""Coefficients are 2^(e / EXPONENT_GRID) with integer e; part of the format."""

_MANTISSAS = np.array(
    [round(2 ** (30 + i / EXPONENT_GRID)) for i in range(EXPONENT_GRID)], np.float64
)
_GRID_BITS = EXPONENT_GRID.bit_length() - 1


def power(exponents: NDArray[np.int64]) -> Array:
    """Return 2^(e / 32) through a table of 31-bit integers: the same bits on every machine."""
    e = np.asarray(exponents, np.int64)
    whole = (e >> _GRID_BITS) - 30
    mantissas: Array = _MANTISSAS[e & (EXPONENT_GRID - 1)]
    return np.ldexp(mantissas, whole.astype(np.int32))


def exponents(values: Array) -> NDArray[np.int64]:
    """Return the e with 2^(e / 32) nearest to each value > 0 on the log scale; 0 for zeros."""
    positive = np.where(values > 0, values, 1.0)
    return np.round(EXPONENT_GRID * np.log2(positive)).astype(np.int64)


def product_of_parts(left: Array, right: NDArray[np.float64] | NDArray[np.int32]) -> Array:
    """Return ``left @ right``, (N, q) times (q, k), in a fixed order of sums.

    Products of column 0 of ``left`` come first, then of column 1 and so on, each rounded, then
    added to the sum, which is rounded again.

    A BLAS adds up in an order of its own, which differs from machine to machine.
    """
    columns = np.ascontiguousarray(left.T, np.float64)
    numbers = np.ascontiguousarray(right, np.float64)
    out = np.zeros((right.shape[1], left.shape[0]))
    loops.add_products(columns, numbers, out)
    return out.T
