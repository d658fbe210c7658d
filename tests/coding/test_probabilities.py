"""Readers may leave out the bounds of a probability: no row of decisions reaches them."""

from __future__ import annotations

import numpy as np

LEAST, MOST = 64, 65472


def _after(reached: np.ndarray, count: int) -> np.ndarray:
    """By probability, whether a decision leads there from one that is reached, without bounds."""
    rate = 655360 // (10 * count + 16)
    p = np.flatnonzero(reached)
    after = np.zeros_like(reached)
    after[p + ((65536 - p) * rate >> 16)] = True
    after[p - (p * rate >> 16)] = True
    return after


def test_no_probability_that_can_be_reached_is_near_its_bounds() -> None:
    reached = np.zeros(65537, dtype=bool)
    reached[32768] = True
    for count in range(255):
        reached = _after(reached, count)
    while (more := reached | _after(reached, 255)).sum() > reached.sum():
        reached = more
    p = np.flatnonzero(reached)
    assert p.min() > LEAST
    assert p.max() < MOST
