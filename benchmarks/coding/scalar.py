"""The plain uniform quantiser, to hold the trellis against: same columns, same squared error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy.special import ndtr

from benchmarks.coding.ideal import adaptive_bits, noise
from benchmarks.coding.recorded import Column, Integers, Reals
from hydraopt.coding.spread import spread_classes

__all__ = ["Scalar", "at_equal_error", "squared_error"]

Streams = Sequence[Sequence[Sequence[Column]]]


@njit(cache=True)
def _round(x: Reals, lam: float, bits: Reals, levels: Integers) -> None:
    """Levels with the least ``(x - level)^2 + lam * bits`` each; x in steps."""
    top = bits.shape[0] - 1
    slope = bits[top] - bits[top - 1]
    for i in range(x.shape[0]):
        a = abs(x[i])
        best, cost = 0, a * a + lam * bits[0]
        low = int(a)
        for k in range(max(low - 1, 1), low + 2):
            rate = bits[k] if k <= top else bits[top] + slope * (k - top)
            c = (a - k) ** 2 + lam * rate
            if c < cost:
                best, cost = k, c
        levels[i] = best if x[i] >= 0 else -best


def _gaussian(spread: float, most: int = 64) -> Reals:
    """Bits of |level| = 0..most under a Gaussian of ``spread`` steps, sign included."""
    edges = ndtr((np.arange(most + 1) + 0.5) / spread)
    mass = np.diff(np.concatenate([[0.5], edges]))
    mass[0] *= 2
    return -np.log2(np.maximum(mass, 2.0**-40))


def _quantise(column: Column, step: float, lam: float) -> Column:
    x = column.x / step
    spread = float(np.sqrt(np.mean(x**2)))
    levels = np.empty(x.size, np.int32)
    _round(x, lam, _gaussian(max(spread, 1e-3)), levels)
    # Contexts by class as for the trellis, whose levels are half their integers.
    return Column(levels, levels, int(spread_classes(np.array([2 * spread]))[0]), column.x)


def squared_error(streams: Streams) -> float:
    """Squared error in (trellis) steps, each column's gain undone, as the bundle does."""
    total = 0.0
    for stream in streams:
        for block in stream:
            for column in block:
                left = noise(column.x, column.integers.astype(np.float64))
                total += left * float(column.x @ column.x)
    return total


@dataclass(frozen=True)
class Scalar:
    """A scalar quantiser at the trellis's error: its step in trellis steps, and its bits."""

    step: float
    lam: float
    bits: float
    error: float


def at_equal_error(streams: Streams, wanted: float, lam: float) -> Scalar:
    """Find the step at which the scalar quantiser leaves the error ``wanted``; code its levels.

    lam: squared scalar steps per bit in the choice of levels; 0 is rounding to the nearest.
    """

    def quantise(step: float) -> list[list[list[Column]]]:
        return [[[_quantise(c, step, lam) for c in b] for b in s] for s in streams]

    low, high = 0.5, 3.0
    for _ in range(12):
        step = (low * high) ** 0.5
        if squared_error(quantise(step)) > wanted:
            high = step
        else:
            low = step
    found = quantise(step)
    error = squared_error(found)
    bits = adaptive_bits(found, trellis=False)
    return Scalar(step, lam, bits, error)
