"""Trellis-coded quantisation: integers whose meaning depends on the path that led to them.

Two uniform quantisers share one step: Q0 reconstructs at even multiples of the step, Q1 at odd
multiples and zero. Which one a number uses follows from the parities of the numbers before it,
through a trellis of eight states. The decoder is a table look-up; the encoder finds the sequence
with the lowest ``squared error + lam * bits`` by dynamic programming. On a Gaussian source this
takes back about half of the quarter bit that separates a plain quantiser from the Shannon bound
(docs/decisions.md has the table).

Source: Marcellin and Fischer 1990, trellis coded quantization; the form with two quantisers and
parity-driven states is the "dependent quantization" of H.266/VVC (ITU-T H.266, 8.7.3), here with
eight states. Differs: no sign-data hiding, the state runs on over a whole column.

Units: ``x`` is in steps. A level k reconstructs to the integer ``2k`` (Q0) or ``2k - sign(k)``
(Q1).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["NEXT_STATE", "QUANTISER", "STATES", "quantise", "reconstruct"]

STATES = 8
NEXT_STATE: NDArray[np.int64] = np.array(
    [[0, 2], [5, 7], [1, 3], [6, 4], [2, 0], [4, 6], [3, 1], [7, 5]], dtype=np.int64
)
"""NEXT_STATE[state, level & 1]; part of the format (docs/format.md)."""
QUANTISER: NDArray[np.int64] = np.array([0, 1, 0, 1, 0, 1, 0, 1], dtype=np.int64)
"""The quantiser that a state uses; part of the format."""

_FAR = 1e300


@njit(cache=True, nogil=True, boundscheck=False)
def quantise(
    x: NDArray[np.float64],
    lam: float,
    bits: NDArray[np.float64],
    levels: NDArray[np.int32],
    back: NDArray[np.int32],
) -> None:
    """Levels of one column with the least ``sum (x - reconstruction)^2 + lam * bits``.

    x: (N,) in steps. lam: squared steps per bit; at the optimum about 0.28 (2 ln 2 times the mean
    squared error of the trellis). bits: (2, K+1), the expected cost of |level| = 0..K in each
    quantiser, signs included; levels beyond K go on with the last difference. levels: (N,) output.
    back: (N, 8) scratch. Deterministic; O(8 N).
    """
    count = x.shape[0]
    top = bits.shape[1] - 1
    slope = bits[0, top] - bits[0, top - 1]
    cost = np.full(8, _FAR)
    cost[0] = 0.0
    new = np.empty(8)
    best_level = np.zeros((2, 2), np.int64)
    best_cost = np.zeros((2, 2))
    for i in range(count):
        a = abs(x[i])
        zero = a * a
        for q in range(2):
            low = int((a + q) * 0.5)
            # The two levels around a have different parities, so each parity has a candidate;
            # zero, and one level less, compete where the saved bits outweigh the error.
            for k in (low, low + 1):
                d = a - (2.0 * k - (q if k > 0 else 0))
                rate = bits[q, k] if k <= top else bits[q, top] + slope * (k - top)
                best_cost[q, k & 1] = d * d + lam * rate
                best_level[q, k & 1] = k
            k = low - 1
            if k > 0:
                d = a - (2.0 * k - q)
                rate = bits[q, k] if k <= top else bits[q, top] + slope * (k - top)
                c = d * d + lam * rate
                if c < best_cost[q, k & 1]:
                    best_cost[q, k & 1] = c
                    best_level[q, k & 1] = k
            c = zero + lam * bits[q, 0]
            if c < best_cost[q, 0]:
                best_cost[q, 0] = c
                best_level[q, 0] = 0
        for s in range(8):
            new[s] = _FAR
        for s in range(8):
            q = QUANTISER[s]
            for parity in range(2):
                t = NEXT_STATE[s, parity]
                c = cost[s] + best_cost[q, parity]
                if c < new[t]:
                    new[t] = c
                    back[i, t] = best_level[q, parity] * 8 + s
        least = new[0]
        for s in range(1, 8):
            least = min(least, new[s])
        for s in range(8):
            cost[s] = new[s] - least
    state = 0
    for s in range(1, 8):
        if cost[s] < cost[state]:
            state = s
    for i in range(count - 1, -1, -1):
        k = back[i, state] >> 3
        levels[i] = k if x[i] >= 0 else -k
        state = back[i, state] & 7


@njit(cache=True, nogil=True, boundscheck=False)
def reconstruct(levels: NDArray[np.int32], out: NDArray[np.int32]) -> None:
    """The integers (in steps) that a column of levels stands for; levels (N,), out (N,)."""
    state = 0
    for i in range(levels.shape[0]):
        k = levels[i]
        q = QUANTISER[state]
        out[i] = 2 * k - (q if k > 0 else (-q if k < 0 else 0))
        state = NEXT_STATE[state, k & 1]
