"""Readers may leave out the bounds of a probability: no row of decisions reaches them."""

from __future__ import annotations

import numpy as np

LEAST, MOST = 64, 65472


def _after(p: np.ndarray, count: int) -> np.ndarray:
    """Every probability that follows one of ``p`` after a decision, without the bounds."""
    rate = 655360 // (10 * count + 16)
    return np.unique(np.concatenate([p + ((65536 - p) * rate >> 16), p - (p * rate >> 16)]))


def test_no_probability_that_can_be_reached_is_near_its_bounds() -> None:
    reached = np.array([32768], dtype=np.int64)
    for count in range(255):
        reached = _after(reached, count)
        assert reached[0] > LEAST and reached[-1] < MOST
    while True:
        more = np.union1d(reached, _after(reached, 255))
        if more.size == reached.size:
            break
        reached = more
    assert LEAST < reached[0] == 77 and reached[-1] == 65459 < MOST
