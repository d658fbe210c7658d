"""Entries of dW a block of rows at a time, for methods that need them one by one.

A dW (m, n) is never held whole: a pass forms a block of rows, uses it and drops it, and what needs
several passes forms the blocks again. Blocks hold at most ``block`` entries, or one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hydraopt.linalg.cutoff import rank_of, rounding
from hydraopt.linalg.rangefinder import dominant_range
from hydraopt.linalg.shapes import Array, Factors
from hydraopt.linalg.svd import halved, in_range

__all__ = ["BLOCK", "Cut", "MatrixRows", "largest", "refit", "spans", "uniform"]

BLOCK = 1 << 18
"""Entries of a block: 2 MiB for each of the tasks that are looked at together."""

_WHOLE = 1 << 16  # entries up to which a dense SVD is quicker than the randomised one

MatrixRows = Callable[[int, int], Array]
"""Rows start to stop of some (m, n), formed anew on each call and the same each time."""


def spans(m: int, n: int, block: int = BLOCK) -> Iterator[tuple[int, int]]:
    """Yield the blocks of m rows of n entries, (start, stop)."""
    step = max(block // max(n, 1), 1)
    for start in range(0, m, step):
        yield start, min(start + step, m)


@dataclass(frozen=True)
class Cut:
    """Selection of the k entries of largest magnitude.

    It has the entries above ``value``, and of the entries equal to it those whose flat index, row
    by row, is below ``until``.
    """

    value: float
    until: int

    def of(self, start: int, rows: Array) -> NDArray[np.bool_]:
        """Return the mask of these rows, the first of which is row ``start``."""
        size = np.abs(rows)
        mask: NDArray[np.bool_] = size > self.value
        equal = size == self.value
        if equal.any():
            index = np.arange(size.size).reshape(size.shape) + start * size.shape[1]
            mask |= equal & (index < self.until)
        return mask


def largest(factors: Factors, keep: int, block: int = BLOCK) -> Cut:
    """Return the cut that leaves exactly ``keep`` entries of ``B A``; among equals the first ones
    win.

    Radix selection: magnitudes as 64-bit integers keep their order, so counts of their upper 16
    bits, then the next 16, close in on the value until what is left fits one block.
    """
    m, n = factors.B.shape[0], factors.A.shape[1]
    if keep >= m * n:
        return Cut(-1.0, 0)
    if keep <= 0:
        return Cut(float("inf"), 0)

    def bits() -> Iterator[tuple[int, NDArray[np.uint64]]]:
        for start, stop in spans(m, n, block):
            yield start, np.abs(factors.B[start:stop] @ factors.A).ravel().view(np.uint64)

    prefix, known, wanted, there = 0, 0, keep, m * n
    while known < 64 and there > block:
        counts = np.zeros(1 << 16, np.int64)
        for _, each in bits():
            inside = each[each >> np.uint64(64 - known) == prefix] if known else each
            digit = (inside >> np.uint64(48 - known)) & np.uint64(0xFFFF)
            counts += np.bincount(digit.astype(np.int64), minlength=1 << 16)
        above = np.cumsum(counts[::-1])[::-1] - counts
        digit_of = int(np.flatnonzero((above < wanted) & (above + counts >= wanted))[0])
        wanted -= int(above[digit_of])
        there = int(counts[digit_of])
        prefix, known = (prefix << 16) | digit_of, known + 16
    if known < 64:
        matching = [x[x >> np.uint64(64 - known) == prefix] if known else x for _, x in bits()]
        left = np.sort(np.concatenate(matching))[::-1]
        value = left[wanted - 1]
        wanted -= int(np.count_nonzero(left > value))
    else:
        value = np.uint64(prefix)
    until, seen = m * n, 0
    for start, each in bits():
        equal = np.flatnonzero(each == value)
        if seen + equal.size >= wanted:
            until = start * n + int(equal[wanted - seen - 1]) + 1
            break
        seen += equal.size
    return Cut(float(np.array(value, np.uint64).view(np.float64)), until)


def uniform(seed: int, task: int, start: int, stop: int, n: int) -> Array:
    """Uniform numbers in [0, 1) for rows start to stop of an (m, n); whatever the blocks, the same.

    seed: 0 to 2^64 - 1.
    Philox is a counter turned into bits, four numbers to a count: any row is reached at once.
    """
    counts = -(-n // 4)
    counter = np.random.Philox(key=np.array([seed, task], np.uint64))
    counter.advance(counts * start)
    drawn: Array = np.random.Generator(counter).random((stop - start, 4 * counts))
    return drawn[:, :n]


def refit(
    rows: MatrixRows,
    m: int,
    n: int,
    rank: int,
    *,
    oversample: int = 10,
    passes: int = 2,
    seed: int = 0,
    block: int = BLOCK,
) -> tuple[Factors, float]:
    """Return the best factors of that rank for an (m, n) given by its rows, and the relative error
    left.

    Randomised SVD with ``passes`` subspace iterations (Halko, Martinsson and Tropp, arXiv
    0909.4061, algorithms 4.4 and 5.1); exact where rank + oversample reaches min(m, n) or the rank
    of the matrix, and for small matrices, which are taken whole. The error is that of the residual
    itself. B (m, k) and A (k, n) carry the roots of the singular values alike; k <= min(m, n).
    """
    rank = min(rank, m, n)
    if m * n <= min(_WHOLE, block):
        u, s, vt = np.linalg.svd(in_range(rows(0, m)), full_matrices=False)
    else:
        width = min(rank + oversample, m, n)
        probe = np.random.default_rng(seed).standard_normal((n, width))

        def image(probe: Array) -> Array:
            return np.concatenate([rows(i, j) @ probe for i, j in spans(m, n, block)])

        def back(left: Array) -> Array:
            return np.asarray(sum(rows(i, j).T @ left[i:j] for i, j in spans(m, n, block)))

        left, across = dominant_range(image, back, probe, passes + 1)
        small, s, vt = np.linalg.svd(in_range(across.T), full_matrices=False)
        u = left @ small
    keep = max(min(rank, rank_of(s, rounding(m, n))), 1)
    factors = halved(u, s, vt, keep)
    # Near 1, by a power of two: squares of the entries themselves may leave the range.
    shift = -int(np.frexp(s.max(initial=0.0))[1])
    left_over = total = 0.0
    for i, j in spans(m, n, block):
        wanted = rows(i, j)
        missed = wanted - factors.B[i:j] @ factors.A
        total += float(np.sum(np.ldexp(wanted, shift) ** 2))
        left_over += float(np.sum(np.ldexp(missed, shift) ** 2))
    return factors, float(np.sqrt(left_over / total)) if total > 0 else 0.0
