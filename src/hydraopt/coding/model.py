"""The contexts of the range coder: what each binary decision is expected to be, and how it learns.

Every decision has its own probability, learned while coding; the learning rate is 1/(count + 1.6),
so a fresh context learns at once and an old one is steady. No table is sent. docs/streams.md is the
normative text.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = [
    "ACTIVITIES",
    "BINS",
    "CLASSES",
    "CONTEXTS",
    "FLOOR",
    "LIMIT",
    "MASK",
    "MODEL_SIZE",
    "RATE",
    "SHIFT_FROM",
    "SIDE_CONTEXTS",
    "TOP",
    "activity",
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

LIMIT = 255
RATE: NDArray[np.int64] = np.array([655360 // (10 * n + 16) for n in range(LIMIT + 1)], np.int64)
"""RATE[count] = floor(65536 / (count + 1.6)); part of the format."""
FLOOR = 64
"""Least probability, in 1/65536."""
TOP = 1 << 24
"""Below this range a byte goes out."""
MASK = 0xFFFFFFFF


def new_model() -> NDArray[np.int32]:
    """Fresh contexts, (MODEL_SIZE, 2): probability of a 1 in 1/65536, and the count so far."""
    model = np.zeros((MODEL_SIZE, 2), np.int32)
    model[:, 0] = 32768
    return model


@njit(cache=True, nogil=True)
def activity(row: int, total: int, count: int) -> int:
    """0, 1 or 2: is the row quiet, usual or lively in the columns decoded so far?

    row: sum of |integer| over the row; total: over all ``count`` rows.
    """
    if 10 * row * count < 7 * total:
        return 0
    return 1 if 10 * row * count < 13 * total else 2
