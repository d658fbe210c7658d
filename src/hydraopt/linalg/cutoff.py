"""One rule to separate significant singular values and eigenvalues from rounding.

A value counts if it is above a share of the largest. The share says where the values come from.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hydraopt.linalg.shapes import Array

__all__ = ["COINCIDENT", "GRAM", "STORED_IN_FLOAT32", "rank_of", "rounding", "significant"]

GRAM: Final = 1e-12
"""Share for eigenvalues of a float64 Gram matrix.
They are squares, each off by about its size times eps of the largest, which for the bases in use is
below 1e-12."""

STORED_IN_FLOAT32: Final = 1e-13
"""Share for squared singular values of a matrix that was held in float32.
Directions below 3e-7 of the strongest are rounding."""

COINCIDENT: Final = 1e-9
"""Share for singular values of unit vectors side by side, which all get one weight afterwards.
Two tasks' vectors that differ by less are one, so this lies well above the rounding of the SVDs
behind them and well below what training or fp16 tells apart."""


def rounding(*sizes: int, dtype: DTypeLike = np.float64) -> float:
    """Return the rounding share of singular values: eps of ``dtype`` times the largest size.

    As in LAPACK and ``numpy.linalg.matrix_rank``.
    """
    return float(np.finfo(np.dtype(dtype)).eps) * max(sizes)


def significant(values: Array, share: float, least: float = 0.0) -> NDArray[np.bool_]:
    """Return the mask of the values above ``share`` of the largest one.

    least: what the largest is taken to be at the least; values far below 1 are then all rounding.
    All values 0 or below, or none at all: nothing is significant.
    """
    largest: Any = values.max(initial=0.0)
    mask: NDArray[np.bool_] = values > share * max(largest, least)
    return mask


def rank_of(values: Array, share: float) -> int:
    """Return the number of significant values."""
    return int(np.count_nonzero(significant(values, share)))
