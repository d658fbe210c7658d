"""Spread classes: how large the numbers of a column are, in steps of a quarter octave."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_SPREAD", "spread_classes", "spread_of"]

MAX_SPREAD: Final = 92
"""Largest spread class: 2^19 steps, a relative error near 1e-6."""
_UNIT: Final = 16
"""Class of numbers with a root mean square of one step."""
_EACH: Final = 4
"""Classes to an octave."""


def spread_of(classes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the root mean square of numbers of these classes, in steps: 2^((class - 16) / 4)."""
    return 2.0 ** ((classes - _UNIT) / _EACH)


def spread_classes(spreads: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return round(4 log2(spread)) + 16 in [0, MAX_SPREAD]; spreads are RMS values in steps."""
    classes = np.round(_EACH * np.log2(np.maximum(spreads, 1e-9))).astype(np.int64) + _UNIT
    return np.clip(classes, 0, MAX_SPREAD)
