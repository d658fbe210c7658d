"""Parts of a dense tensor: which of a matrix's are worth their bits beside the rest in steps.

Everything here is of one matrix (N, k) at a price of a bit; :mod:`hydraopt.compress.dense` says
what becomes of tensors.
"""

from __future__ import annotations

import functools
import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.coding.coefficients import exponents, power
from hydraopt.coding.forms import Way
from hydraopt.coding.records import PartsRecord
from hydraopt.coding.side import quantise_side
from hydraopt.coding.spread import spread_of
from hydraopt.coding.stream import LAMBDA
from hydraopt.compress.curve import FIRST_CLASS, LAST_CLASS, noise_of, rate_of
from hydraopt.compress.sides import PART_BITS
from hydraopt.linalg.basis import symmetric_inverse
from hydraopt.linalg.shapes import Array

__all__ = ["coded_parts", "plan_parts", "rows_of", "spent", "tables"]

_UNSEEN: Final = 0.25
"""Steps below which all numbers of a row round to zero; such rows are left out if many."""
_FEW: Final = 0.7
"""Largest share of non-zero rows at which rows are named."""
_LEAST: Final = 4096, 16
"""Minimum count of numbers, and of columns, of a matrix that is searched for parts."""
_WIDEST: Final = 4096
"""Maximum count of columns of a matrix searched for parts: (columns, columns) is decomposed."""
_SAVES: Final = 0.98
"""Share of the cost without parts below which parts are coded, by the estimate."""


@functools.cache
def tables() -> tuple[Array, Array, Array]:
    """Return log2 of spreads in steps, and bits per number and log of the error left at each."""
    classes = np.arange(LAST_CLASS + 1)
    noise = noise_of(classes)
    return np.log2(spread_of(classes)), rate_of(classes), np.log2(noise / (1 + noise))


def spent(squares: Array, rows: int, step: float) -> tuple[float, float]:
    """Estimate the bits of columns (k,) of ``rows`` numbers each, and the squared error left.

    squares: squared norms of the columns.
    """
    spreads, rates, left = tables()
    at = np.log2(np.maximum(np.sqrt(squares / max(rows, 1)) / step, 1e-9))
    bits = rows * float(np.interp(at, spreads, rates).sum()) + 3.0 * squares.size
    return bits, float(squares @ 2.0 ** np.interp(at, spreads, left))


def rows_of(x: Array, step: float) -> NDArray[np.int64] | None:
    """Return the rows that are worth naming, or None if most are."""
    rows = np.flatnonzero(np.abs(x).max(axis=1, initial=0) > _UNSEEN * step)
    return rows if rows.size <= _FEW * x.shape[0] else None


def _part_classes(
    s: Array, rest: float, shape: tuple[int, int], price: float, weight: float, step: float
) -> NDArray[np.int64]:
    """Return spread classes of parts with singular values ``s``.

    If there is a rest, of squared norm ``rest``, their rounding is coded with it, which costs less
    than leaving it as an error.
    """
    rows, columns = shape
    mended = min(1.0, LAMBDA / (2 * math.log(2)) * step**2 * rows * columns / max(rest, 1e-300))
    classes = np.arange(FIRST_CLASS, LAST_CLASS + 1)
    cost = weight * mended * 2 * noise_of(classes)[None, :] * (s**2)[:, None]
    total = cost + price * (rows + columns) * rate_of(classes)[None, :]
    chosen: NDArray[np.int64] = classes[total.argmin(axis=1)]
    return chosen


def _parts_that_pay(
    s: Array, shape: tuple[int, int], price: float, weight: float, step: float
) -> int:
    """Return how many parts, of falling singular values ``s``, cost less than they save."""
    rows, columns = shape
    left = np.append(np.cumsum((s**2)[::-1])[::-1], 0.0)
    most = int(math.log2(max(s.size // 4, 1)))
    costs = {}
    for k in sorted({0, *(round(2 ** (i / 2)) for i in range(2 * most + 1))}):
        rest, bits = float(left[k]), 0.0
        if k:
            classes = _part_classes(s[:k], rest, shape, price, weight, step)
            rest += float((s[:k] ** 2) @ (2 * noise_of(classes)))
            bits = float((rows + columns) * rate_of(classes).sum()) + PART_BITS * k
        more, error = spent(np.full(columns, rest / columns), rows, step)
        costs[k] = weight * error + price * (bits + more)
    best = min(costs, key=costs.__getitem__)
    return best if costs[best] < _SAVES * costs[0] else 0


def plan_parts(
    x: Array, price: float, weight: float, step: float
) -> tuple[Array, Array, int, NDArray[np.int64]] | None:
    """Plan the parts of a matrix that pay for themselves beside the rest; None if none do.

    Returns the singular values of the matrix, falling, its right vectors, the number of parts, and
    their spread classes.
    """
    rows, columns = x.shape
    if x.size < _LEAST[0] or not _LEAST[1] <= columns <= _WIDEST:
        return None
    if rows_of(x, step) is not None:
        return None  # Few rows take less than their parts, which are as long as all rows.
    values, vectors = np.linalg.eigh(x.T @ x)
    s = np.sqrt(np.maximum(values[::-1], 0))
    k = _parts_that_pay(s, (rows, columns), price, weight, step)
    if k == 0 or s[k - 1] <= 0:
        return None
    left = float((s[k:] ** 2).sum())
    return s, vectors[:, ::-1], k, _part_classes(s[:k], left, x.shape, price, weight, step)


def coded_parts(x: Array, price: float, weight: float, step: float) -> PartsRecord | None:
    """Return the rounded parts of a matrix that pay for themselves."""
    plan = plan_parts(x, price, weight, step)
    if plan is None:
        return None
    rows, columns = x.shape
    _, vectors, k, classes = plan
    lengths = spread_of(classes)
    right = quantise_side(vectors[:, :k] * lengths * math.sqrt(columns), Way.EXPLICIT, None)
    some = np.any(right.values != 0, axis=0)
    right, lengths = right.keep(some), lengths[some]
    gram = right.values.T @ right.values
    ideal = (x @ right.values) @ symmetric_inverse(gram)
    norms = np.linalg.norm(ideal, axis=0)
    grid = exponents(norms / (lengths * math.sqrt(rows)))
    return PartsRecord(quantise_side(ideal / power(grid), Way.EXPLICIT, None), right, grid)
