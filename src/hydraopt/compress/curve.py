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
from hydraopt.compress.measure import left_noise
from hydraopt.linalg.shapes import Array

__all__ = ["FIRST_CLASS", "LAST_CLASS", "Curve", "noise_of", "part_curve", "rate_of", "tables"]

FIRST_CLASS = 13
"""Below this class nearly every number rounds to zero: such a part is not worth its place."""

# fmt: off
_RATE = np.array([
    0.0011, 0.0011, 0.0011, 0.0011, 0.0011, 0.0011, 0.0011, 0.0011, 0.0011, 0.0011, 0.0011,
    0.0012, 0.0298, 0.5031, 0.8187, 1.0178, 1.2239, 1.4641, 1.696, 1.9315, 2.1702, 2.4065,
    2.6449, 2.8826, 3.1249, 3.3585, 3.6061, 3.851, 4.0983, 4.3676, 4.6053, 4.8493, 5.0896,
    5.3427, 5.5811, 5.8317, 6.0742])
_NOISE = np.array([
    1e9, 1e9, 1e9, 1e9, 1e9, 1e9, 1e9, 1e9, 1e9, 1e9, 1e9, 9669, 33.85, 1.419, 0.6353, 0.412,
    0.2772, 0.1833, 0.1255, 0.08678, 0.06047, 0.04265, 0.0302, 0.02145, 0.01517, 0.0109,
    0.007685, 0.005451, 0.00386, 0.002741, 0.001948, 0.001379, 0.0009845, 0.0006975, 0.0004974,
    0.0003497, 0.0002495])
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
    counted = left_noise(noise, output)
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
