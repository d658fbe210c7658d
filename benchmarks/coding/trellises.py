"""Distance of trellises from the Shannon bound on a Gaussian source, by their number of states.

    python -m benchmarks.coding trellises

A trellis of S states goes from state s to ``floor(s / 2) XOR a (s mod 2) XOR b (level mod 2)``; odd
states use the second quantiser. At each step, levels are chosen with the prices of their own
frequencies, in turn until both settle; rates are entropies, and the gain of the best scale is
included. Codes of 8, 128 and 256 states are Ungerboeck's (1982); the others are the best of all
a and b, or of a part of them, on a shorter draw. Writes benchmarks/results/coding/trellises.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from benchmarks.commands import parser_of
from benchmarks.common import CODING, provenance, write_result

CODES: Final = {8: (7, 2), 16: (13, 1), 32: (28, 8), 64: (58, 17), 128: (78, 43), 256: (166, 121)}
"""States: a and b."""
STEPS: Final = (1.25, 1.0, 0.7, 0.4, 0.2)
NUMBERS: Final = 200_000
LEVELS: Final = 64
ROUNDS: Final = 6


@numba.njit(cache=True)
def quantise(
    x: NDArray[np.float64], states: int, a: int, b: int, lam: float, bits: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return levels and quantisers with the least ``squared error + lam * bits``; bits (2, K)."""
    n = x.size
    cost, after = np.full(states, 1e300), np.empty(states)
    cost[0] = 0.0
    before, chosen = np.zeros((n, states), np.int16), np.zeros((n, 2, 2), np.int16)
    each = np.empty((2, 2))
    for i in range(n):
        each[:] = 1e300
        for q in range(2):
            near = int((abs(x[i]) + q) / 2)
            for k in (0, near - 1, near, near + 1):
                if 0 <= k < bits.shape[1]:
                    error = abs(x[i]) - (2 * k - q if k else 0)
                    total = error * error + lam * bits[q, k]
                    if total < each[q, k & 1]:
                        each[q, k & 1], chosen[i, q, k & 1] = total, k
        after[:] = 1e301
        for s in range(states):
            for parity in range(2):
                t = s >> 1 ^ a * (s & 1) ^ b * parity
                total = cost[s] + each[s & 1, parity]
                if total < after[t]:
                    after[t], before[i, t] = total, 2 * s + parity
        cost, after = after, cost
    levels, quantisers = np.empty(n, np.int64), np.empty(n, np.int64)
    state = int(np.argmin(cost))
    for i in range(n - 1, -1, -1):
        state, parity = before[i, state] >> 1, before[i, state] & 1
        quantisers[i] = state & 1
        k = chosen[i, state & 1, parity]
        levels[i] = k if x[i] >= 0 else -k
    return levels, quantisers


def rate_and_noise(x: NDArray[np.float64], step: float, states: int) -> tuple[float, float]:
    """Return bits a number and mean squared error of ``x``, coded with this step."""
    a, b = CODES[states]
    scaled, lam = x / step, 0.28
    bits = np.tile(1 + 1.5 * np.arange(LEVELS) * step, (2, 1))
    rate = noise = 0.0
    for _ in range(ROUNDS):
        levels, quantisers = quantise(scaled, states, a, b, lam, bits)
        rate = 0.0
        for q in (0, 1):
            counts = np.bincount(np.abs(levels[quantisers == q]), minlength=LEVELS)
            p = (counts + 0.05) / (counts + 0.05).sum()
            bits[q] = -np.log2(p) + (np.arange(LEVELS) > 0)
            rate += float(np.sum(counts * bits[q])) / x.size
        points = 2.0 * levels - quantisers * np.sign(levels)
        lam = 2 * np.log(2) * float(np.mean((scaled - points) ** 2))
        scale = float(scaled @ points / max(points @ points, 1e-9))
        noise = float(np.mean((scaled - scale * points) ** 2)) * step * step
    return rate, noise


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--states", nargs="+", type=int, choices=CODES, default=list(CODES))
    args = parser.parse_args(arguments)
    x = np.random.default_rng(5).standard_normal(NUMBERS)
    rows = []
    for states in args.states:
        points = []
        for step in STEPS:
            rate, noise = rate_and_noise(x, step, states)
            away = 10 * np.log10(noise) + 20 * np.log10(2) * rate
            points.append({"step": step, "bits": round(rate, 4), "dB": round(float(away), 4)})
        print(states, *(f"{p['bits']:.3f} bits {p['dB']:.3f} dB" for p in points), flush=True)
        rows.append({"states": states, "code": CODES[states], "points": points})
    write_result(CODING, "trellises", provenance("trellises on a Gaussian"), rows)


if __name__ == "__main__":
    main()
