"""Distance of trellises from the Shannon bound on a Gaussian source, by their number of states.

    python -m benchmarks.coding trellises [--search STATES]

A trellis of S states goes from state s to ``floor(s / 2) XOR a (s mod 2) XOR b (level mod 2)``; odd
states use the second quantiser. At each step, levels are chosen with the prices of their own
frequencies, in turn until both settle; rates are entropies, and the gain of the best scale is
included. Codes are Ungerboeck's (1982) or found by a search, which prints the best of all a and b.
Without it, writes benchmarks/results/coding/trellises.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from benchmarks.commands import parser_of
from benchmarks.common import CODING, provenance, write_result

CODES: Final = (
    (8, 7, 2, "Ungerboeck"),
    (16, 13, 1, "search"),
    (32, 28, 8, "search, multiples of 4"),
    (64, 33, 10, "Ungerboeck"),
    (64, 58, 17, "search"),
    (128, 78, 43, "Ungerboeck"),
    (256, 166, 121, "Ungerboeck"),
)
"""States, a, b and origin."""
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


def distance(
    x: NDArray[np.float64], step: float, states: int, a: int, b: int, rounds: int = ROUNDS
) -> tuple[float, float]:
    """Return bits a number, and dB from the bound, of ``x`` coded with this step."""
    scaled, lam = x / step, 0.28
    bits = np.tile(1 + 1.5 * np.arange(LEVELS) * step, (2, 1))
    rate = noise = 0.0
    for _ in range(rounds):
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
    return rate, float(10 * np.log10(noise) + 20 * np.log10(2) * rate)


def search(states: int, x: NDArray[np.float64]) -> None:
    """Print the best codes: all on a short draw, then the best twenty on ``x``."""
    half = states // 2
    codes = [(a, b) for a in range(half, states) for b in range(1, half)]
    few = x[: x.size // 12]
    codes.sort(key=lambda code: distance(few, 1.0, states, code[0], code[1], rounds=3)[1])
    found = [
        (float(np.mean([distance(x, step, states, *code)[1] for step in STEPS[1:4]])), code)
        for code in codes[:20]
    ]
    for mean, code in sorted(found):
        print(states, *code, f"{mean:.4f} dB", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--search", type=int, metavar="STATES")
    args = parser.parse_args(arguments)
    x = np.random.default_rng(5).standard_normal(NUMBERS)
    if args.search:
        search(args.search, x)
        return
    rows = []
    for states, a, b, origin in CODES:
        points = []
        for step in STEPS:
            bits, away = distance(x, step, states, a, b)
            points.append({"step": step, "bits": round(bits, 4), "dB": round(away, 4)})
        print(states, origin, *(f"{p['bits']:.3f} bits {p['dB']:.3f} dB" for p in points))
        rows.append({"states": states, "code": [a, b], "origin": origin, "points": points})
    write_result(CODING, "trellises", provenance("trellises on a Gaussian"), rows)


if __name__ == "__main__":
    main()
