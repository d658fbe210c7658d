"""Contexts of the range coder: the expected value of each binary decision, and its adaptation.

Every decision has its own probability, learned while coding; the learning rate is 1/(count + 1.6),
so a fresh context learns at once and an old one is steady. No table is sent.
docs/reference/streams.md is the normative text.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hydraopt.compiled import njit
from hydraopt.machinecode import INLINED

__all__ = [
    "ACTIVITIES",
    "BINS",
    "CLASSES",
    "CONTEXTS",
    "FLOOR",
    "LIMIT",
    "MASK",
    "MODEL_SIZE",
    "MOST_NUMBER",
    "MOST_SIDE",
    "MOST_SUM",
    "RATE",
    "SHIFT_FROM",
    "SIDE_CONTEXTS",
    "TOP",
    "activity",
    "bounds",
    "moved",
    "new_model",
]

CLASSES = 29
"""Spread classes with contexts of their own; a class is round(4 log2(spread in steps)) + 16."""
SHIFT_FROM = 25
"""Above CLASSES, low bits are sent raw until the class falls back into [SHIFT_FROM, CLASSES)."""
ACTIVITIES = 3
BINS = 16
"""Decisions per context set: zero?, then unary up to BINS - 1, then an Exp-Golomb rest."""
SIDE_CONTEXTS = 8
"""Kinds of side integers that learn apart."""
CONTEXTS = 2 * CLASSES * ACTIVITIES * BINS
MODEL_SIZE = CONTEXTS + SIDE_CONTEXTS * 2 * BINS

MOST_SIDE = 1 << 30
"""Every |side integer| is below; part of the format."""
MOST_NUMBER = 1 << 27
"""Largest |integer| of a block, in steps; part of the format, so that 32 bits are enough."""
MOST_SUM = 1 << 30
"""Every row's sum is below, where a column begins; part of the format."""

LIMIT = 255
RATE: NDArray[np.int64] = np.array([655360 // (10 * n + 16) for n in range(LIMIT + 1)], np.int64)
"""RATE[count] = floor(65536 / (count + 1.6)); part of the format."""
FLOOR = 64
"""Least probability, in 1/65536."""
TOP = 1 << 24
"""Below this range a byte goes out."""
MASK = 0xFFFFFFFF


def new_model() -> NDArray[np.int32]:
    """Return fresh contexts (MODEL_SIZE,).

    A context is 256 times the probability of a 1 in 1/65536, plus the count so far. One word holds
    both, because loads and stores dominate the time of a decision.
    """
    return np.full(MODEL_SIZE, 32768 << 8, np.int32)


@njit(cache=True, nogil=True, inline="always")
def moved(known: int, bit: int) -> int:
    """Return the state of a context after one more decision."""
    p, count = known >> 8, known & 255
    # Unsigned, so that no check for a negative index is compiled.
    rate = int(RATE[np.uint64(count)])
    if bit:
        p = min(p + (((65536 - p) * rate) >> 16), 65536 - FLOOR)
    else:
        p = max(p - ((p * rate) >> 16), FLOOR)
    return (p << 8) | min(count + 1, LIMIT)


@njit(cache=True, nogil=True, **INLINED)
def bounds(total: int, count: int) -> tuple[int, int]:
    """Return the thresholds of usual and of lively rows: 0.7 and 1.3 times the mean, rounded up.

    total: sum of |integer| over all ``count`` rows in the columns coded so far.
    """
    if count == 0:
        return 0, 0
    return -(-7 * total // (10 * count)), -(-13 * total // (10 * count))


@njit(cache=True, nogil=True, inline="always")
def activity(row: int, usual: int, lively: int) -> int:
    """Return 0, 1 or 2 for a quiet, usual or lively row. row: its sum; the others: see bounds."""
    return int(row >= usual) + int(row >= lively)
