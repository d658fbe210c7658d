"""Bits against noise for a rank-one part, from the quantiser's measured behaviour on a Gaussian.

RATE and NOISE hold, for each spread class, the bits a number that the coder spends and the noise it
leaves once the bias is undone: 1/rho^2 - 1, with rho the correlation between a number and its
reconstruction. Measured by ``python -m benchmarks.coding tables``. Used by the planner only, never
by a decoder.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hydraopt.coding.spread import MAX_SPREAD
from hydraopt.linalg.shapes import Array

__all__ = [
    "FIRST_CLASS",
    "LAST_CLASS",
    "Curve",
    "noise_of",
    "part_curve",
    "rate_of",
    "tables",
]

FIRST_CLASS = 13
"""Below this class nearly every number rounds to zero: such a part is not worth its place."""

# fmt: off
_RATE = np.array([
    0.0011, 0.0011, 0.0011, 0.0011, 0.0011, 0.0011, 0.0011, 0.0011, 0.0011, 0.0011, 0.0011, 0.0012,
    0.0842, 0.6057, 0.7967, 0.9932, 1.2204, 1.4691, 1.7063, 1.9442, 2.1819, 2.4209, 2.6545, 2.8925,
    3.1334, 3.3659, 3.6129, 3.856, 4.1026, 4.3667, 4.6046, 4.8487, 5.0893, 5.3422, 5.5806, 5.8313,
    6.0741])
_NOISE = np.array([
    1e9, 1e9, 1e9, 1e9, 1e9, 1e9, 1e9, 1e9, 1e9, 1e9, 1e9, 2.181e+04, 10.89, 0.9763, 0.591, 0.3901,
    0.2565, 0.1692, 0.1155, 0.08011, 0.05614, 0.03961, 0.02823, 0.0201, 0.01427, 0.01028, 0.007265,
    0.005168, 0.003669, 0.002611, 0.00186, 0.001318, 0.0009399, 0.0006666, 0.000476, 0.0003347,
    0.0002387])
# fmt: on
LAST_CLASS = MAX_SPREAD


@functools.cache
def tables() -> tuple[Array, Array]:
    """Return (rates, noises) by spread class, from 0 on."""
    # At high rate each class (a quarter octave of spread) adds a quarter bit and divides the noise
    # by 2^(1/2): the measured tables go on with these slopes.
    more = np.arange(1, LAST_CLASS + 2 - _RATE.size)
    return (
        np.concatenate([_RATE, _RATE[-1] + more / 4]),
        np.concatenate([_NOISE, _NOISE[-1] * 2.0 ** (-more / 2)]),
    )


def rate_of(classes: NDArray[np.int64]) -> Array:
    """Return bits per number at the given spread classes (clipped to the table)."""
    return tables()[0].take(classes, mode="clip")


def noise_of(classes: NDArray[np.int64]) -> Array:
    """Return the relative squared noise, bias undone, at spread classes (clipped to the table)."""
    return tables()[1].take(classes, mode="clip")


@dataclass(frozen=True)
class Curve:
    """Best (bits, noise) of a part whose sides have this many numbers.

    bits: rising; noise: falling, relative to the part's squared singular value, the left side's
    divided by ``output``. left, right: the spread classes that reach them.
    """

    bits: Array
    noise: Array
    left: NDArray[np.int64]
    right: NDArray[np.int64]


@functools.cache
def _side_hull() -> tuple[NDArray[np.int64], Array, Array]:
    """Return the classes on the lower convex hull of (rate, noise), with rates and noises."""
    classes = np.arange(FIRST_CLASS, LAST_CLASS + 1)
    rate, noise = rate_of(classes), noise_of(classes)
    hull: list[int] = []
    for i in range(classes.size):
        while len(hull) > 1:
            p, q = hull[-2], hull[-1]
            before = (noise[q] - noise[p]) * (rate[i] - rate[p])
            if before < (noise[i] - noise[p]) * (rate[q] - rate[p]):
                break
            hull.pop()
        hull.append(i)
    return classes[hull], rate[hull], noise[hull]


@functools.lru_cache(maxsize=4096)
def part_curve(left_numbers: int, right_numbers: int, output: float) -> Curve:
    """Return the best spread classes of both sides, starting with both at the coarsest.

    Both sides' curves are convex, so the best choices refine, one class at a time, the side that
    takes most noise away for a bit.
    """
    classes, rate, noise = _side_hull()
    counted = noise / output
    slopes = np.concatenate(
        [
            np.diff(counted) / (left_numbers * np.diff(rate)),
            np.diff(noise) / (right_numbers * np.diff(rate)),
        ]
    )
    moves = np.argsort(slopes, kind="stable")
    steps = classes.size - 1
    left = np.concatenate([[0], np.cumsum(moves < steps)])
    right = np.concatenate([[0], np.cumsum(moves >= steps)])
    return Curve(
        left_numbers * rate[left] + right_numbers * rate[right],
        counted[left] + noise[right],
        classes[left],
        classes[right],
    )
