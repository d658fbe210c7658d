"""Grid of coefficients: whole numbers of 1/32 octave, the same bits on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hydraopt.linalg.shapes import Array

__all__ = ["EXPONENT_GRID", "exponents", "power"]

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
