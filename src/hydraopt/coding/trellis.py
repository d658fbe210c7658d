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
from numpy.typing import NDArray

from hydraopt.coding.tables import ONE, ZERO
from hydraopt.compiled import INNER, LENT, njit

__all__ = ["NEXT_STATE", "QUANTISER", "levels_of", "quantise", "reconstruct"]

STATES = 8
NEXT_STATE: NDArray[np.int64] = np.array(
    [[0, 2], [5, 7], [1, 3], [6, 4], [2, 0], [4, 6], [3, 1], [7, 5]], dtype=np.int64
)
"""NEXT_STATE[state, level & 1]; part of the format (docs/reference/streams.md)."""
QUANTISER: NDArray[np.int64] = np.array([0, 1, 0, 1, 0, 1, 0, 1], dtype=np.int64)
"""Quantiser of each state; part of the format."""
_BEFORE: NDArray[np.int64] = np.array(
    [
        [(s, parity) for s in range(STATES) for parity in (0, 1) if NEXT_STATE[s, parity] == t]
        for t in range(STATES)
    ]
)
"""Pairs of (state, parity) that lead to each state, by falling precedence."""

_FAR = 1e300


@njit(**INNER)
def _best(
    a: float, q: int, lam: float, bits: NDArray[np.float64], slope: float
) -> tuple[int, float, int, float]:
    """Return the best even and odd levels of quantiser ``q`` for ``a`` >= 0, with their costs.

    The two levels around ``a`` have different parities, so each parity has a candidate; zero, and
    one level less, compete where the saved bits outweigh the error. slope: what a level more costs
    beyond those of ``bits``.
    """
    # Every choice here hangs on the numbers alone, and a processor would guess it wrong as often as
    # not: all that might be chosen is computed.
    k = int((a + q) * 0.5)
    i = min(k, bits.shape[1] - 2)
    more = slope * (k - i)
    at = lam * bits[q, np.uint64(i)] + more
    near = lam * bits[q, np.uint64(i + 1)] + more
    far = lam * bits[q, np.uint64(max(i - 1, 0))] + more
    nothing = a * a
    off = a - (2.0 * k - q)
    here = nothing if k == 0 else off * off
    over = (off - 2.0) * (off - 2.0) + near
    less = nothing if k == 1 else (off + 2.0) * (off + 2.0)
    less = _FAR if k == 0 else less + far
    here += at
    other = k - 1 if less < over else k + 1
    cost = min(less, over)
    odd = (k & 1) == 1
    even_level, even = (other if odd else k), (cost if odd else here)
    odd_level, uneven = (k if odd else other), (here if odd else cost)
    zero = nothing + lam * bits[q, 0]
    return (0 if zero < even else even_level), min(zero, even), odd_level, uneven


@njit(**LENT, error_model="numpy")
def quantise(
    x: NDArray[np.float64],
    lam: float,
    bits: NDArray[np.float64],
    levels: NDArray[np.int32],
    choices: NDArray[np.int32],
    paths: NDArray[np.uint8],
) -> None:
    """Compute the levels of a column with the least ``sum (x - reconstruction)^2 + lam * bits``.

    x: (N,) in steps. lam: squared steps per bit; at the optimum about 0.28 (2 ln 2 times the mean
    squared error of the trellis). bits: (2, K+1), the expected cost of |level| = 0..K in each
    quantiser, signs included; levels beyond K go on with the last difference. levels: (N,) output.
    choices (N, 4), paths (N,): scratch. Deterministic; O(8 N).
    """
    count = x.shape[0]
    top = bits.shape[1] - 1
    slope = lam * (bits[0, top] - bits[0, top - 1])
    # Each state has two ways in, from the states and by the parities that NEXT_STATE says; written
    # out, the eight costs stay in registers.
    # Bit t of paths: whether the second way won.
    c0 = 0.0
    c1 = c2 = c3 = c4 = c5 = c6 = c7 = _FAR
    for i in range(count):
        a = abs(x[i])
        k00, e00, k01, e01 = _best(a, ZERO, lam, bits, slope)
        k10, e10, k11, e11 = _best(a, ONE, lam, bits, slope)
        choices[i, 0], choices[i, 1], choices[i, 2], choices[i, 3] = k00, k01, k10, k11
        n0, m0 = c0 + e00, c4 + e01
        n1, m1 = c2 + e00, c6 + e01
        n2, m2 = c0 + e01, c4 + e00
        n3, m3 = c2 + e01, c6 + e00
        n4, m4 = c3 + e11, c5 + e10
        n5, m5 = c1 + e10, c7 + e11
        n6, m6 = c3 + e10, c5 + e11
        n7, m7 = c1 + e11, c7 + e10
        paths[i] = (
            (m0 < n0)
            | (m1 < n1) << 1
            | (m2 < n2) << 2
            | (m3 < n3) << 3
            | (m4 < n4) << 4
            | (m5 < n5) << 5
            | (m6 < n6) << 6
            | (m7 < n7) << 7
        )
        c0, c1, c2, c3 = min(n0, m0), min(n1, m1), min(n2, m2), min(n3, m3)
        c4, c5, c6, c7 = min(n4, m4), min(n5, m5), min(n6, m6), min(n7, m7)
    costs = (c0, c1, c2, c3, c4, c5, c6, c7)
    state = 0
    for s in range(1, 8):
        if costs[s] < costs[state]:
            state = s
    for i in range(count - 1, -1, -1):
        second = (paths[i] >> state) & 1
        before = _BEFORE[state, second, 0]
        k = choices[i, 2 * (before & 1) + _BEFORE[state, second, 1]]
        levels[i] = k if x[i] >= 0 else -k
        state = before


@njit(**LENT)
def reconstruct(levels: NDArray[np.int32], out: NDArray[np.int32]) -> None:
    """Compute the integers (in steps) of a column of levels; levels (N,), out (N,)."""
    state = 0
    for i in range(levels.shape[0]):
        k = levels[i]
        q = QUANTISER[state]
        out[i] = 2 * k - (q if k > 0 else (-q if k < 0 else 0))
        state = NEXT_STATE[state, k & 1]


def levels_of(integers: NDArray[np.int32], out: NDArray[np.int32]) -> None:
    """Compute the levels of a column of integers, both (N,); inverts :func:`reconstruct`.

    No trellis is needed: an odd integer is of Q1, an even one other than zero of Q0.
    """
    np.sign(integers, out=out)
    out *= (np.abs(integers) >> 1) + (integers & 1)
