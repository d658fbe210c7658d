"""Ideal sizes of columns of levels, in bits: what no coder of the same model can beat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from benchmarks.coding.recorded import Column, Integers, Reals
from hydraopt.coding import model as coder
from hydraopt.coding.gaussian import level_bits
from hydraopt.coding.trellis import NEXT_STATE, QUANTISER

__all__ = [
    "adaptive_bits",
    "contexts",
    "entropy",
    "gaussian_bits",
    "noise",
    "shannon_bits",
]


@njit(cache=True)
def _contexts(
    levels: Integers, rows: NDArray[np.int64], q: NDArray[np.int8], act: NDArray[np.int8]
) -> None:
    usual, lively = coder.bounds(int(rows.sum()), levels.shape[0])
    s = 0
    for i in range(levels.shape[0]):
        q[i] = QUANTISER[s]
        act[i] = coder.activity(rows[i], usual, lively)
        a = abs(levels[i])
        if a:
            rows[i] += 2 * a - q[i]
        s = NEXT_STATE[s, a & 1]


def contexts(block: Sequence[Column]) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """(quantiser, activity) of every number of a block, columns end to end."""
    count = block[0].levels.size
    q = np.zeros((len(block), count), np.int8)
    act = np.zeros_like(q)
    rows = np.zeros(count, np.int64)
    for j, column in enumerate(block):
        _contexts(column.levels, rows, q[j], act[j])
    return q.ravel(), act.ravel()


def entropy(symbols: NDArray[np.int64], *conditions: NDArray[np.int64]) -> float:
    """Empirical conditional entropy, summed over all numbers: bits. Tables are not counted."""

    def joint(arrays: Iterable[NDArray[np.int64]]) -> float:
        key = np.zeros(symbols.size, np.int64)
        for values in arrays:
            key = key * (int(values.max() - values.min()) + 1) + (values - values.min())
        counts = np.unique(key, return_counts=True)[1].astype(np.float64)
        return float(symbols.size * np.log2(symbols.size) - counts @ np.log2(counts))

    return joint([*conditions, symbols]) - (joint(conditions) if conditions else 0.0)


def gaussian_bits(column: Column, q: NDArray[np.int8]) -> float:
    """Bits under a centred Gaussian of the column's own spread, in the quantiser of each number."""
    spread = float(np.sqrt(np.mean(column.x**2)))
    if spread >= 16:
        # Flat over a step: the mass is the density times the two steps that a level covers.
        z = column.integers / spread
        each = np.log2(spread * np.sqrt(2 * np.pi) / 2) + z**2 / 2 * np.log2(np.e)
        return float(each.sum())
    table = level_bits(spread)
    k = np.minimum(np.abs(column.levels), table.shape[1] - 1)
    return float(table[q, k].sum())


def noise(x: Reals, values: Reals) -> float:
    """``1 - rho^2``: the part of x's energy that the values, best scaled, do not explain."""
    xx, xy, yy = float(x @ x), float(x @ values), float(values @ values)
    return 1 - xy * xy / (xx * yy) if xx > 0 and yy > 0 else 1.0


def shannon_bits(column: Column) -> float:
    """Rate-distortion bound of a Gaussian at the distortion that this column reached."""
    left = noise(column.x, column.integers.astype(np.float64))
    return -column.x.size / 2 * float(np.log2(max(left, 1e-30)))


@njit(cache=True)
def _decision(model: NDArray[np.int32], ctx: int, bit: int) -> float:
    p = (model[ctx] >> 8) / 65536
    model[ctx] = coder.moved(model[ctx], bit)
    return float(-np.log2(p if bit else 1 - p))


@njit(cache=True)
def _adaptive(
    levels: Integers, spread: int, rows: NDArray[np.int64], model: NDArray[np.int32], trellis: bool
) -> float:
    shift = 0 if spread < coder.CLASSES else (spread - coder.SHIFT_FROM) >> 2
    cls = spread - 4 * shift
    usual, lively = coder.bounds(int(rows.sum()), levels.shape[0])
    bits = 0.0
    s = 0
    for i in range(levels.shape[0]):
        a = abs(levels[i])
        q = QUANTISER[s] if trellis else 0
        act = coder.activity(rows[i], usual, lively)
        base = ((q * coder.CLASSES + cls) * coder.ACTIVITIES + act) * coder.BINS
        value = a >> shift
        bits += shift + (1 if a else 0)
        for j in range(coder.BINS - 1):
            bits += _decision(model, base + j, 1 if value > j else 0)
            if value <= j:
                break
        if value >= coder.BINS - 1:
            rest = value - (coder.BINS - 1) + 1
            width = 0
            while (rest >> (width + 1)) > 0:
                width += 1
                bits += _decision(model, base + coder.BINS - 1, 1)
            bits += _decision(model, base + coder.BINS - 1, 0) + width
        if a:
            rows[i] += 2 * a - q
        s = NEXT_STATE[s, a & 1]
    return bits


def adaptive_bits(streams: Sequence[Sequence[Sequence[Column]]], trellis: bool = True) -> float:
    """Bits of hydraopt's own adaptive model, before the arithmetic coder's rounding.

    trellis: whether the levels' meaning depends on a state. For a scalar quantiser it does not.
    """
    bits = 0.0
    for stream in streams:
        model = coder.new_model()
        for block in stream:
            rows = np.zeros(block[0].levels.size, np.int64)
            for column in block:
                bits += _adaptive(column.levels, column.spread, rows, model, trellis)
    return bits
