"""Starts that lie far apart."""

from __future__ import annotations

import numpy as np

from hydraopt.merging.hydra import far_apart


def line(*places: float):
    """Odds by squared distance on a line."""
    x = np.array(places)
    apart = np.full(len(x), np.inf)

    def lost(pick: int):
        nonlocal apart
        apart = np.minimum(apart, (x - x[pick]) ** 2)
        return apart

    return lost


def test_without_chance_the_farthest_is_next() -> None:
    assert far_apart(3, 0, line(0.0, 1.0, 10.0, 4.0), None) == [0, 2, 3]
    odds = np.array([1.0, 5.0, 2.0, -1.0])
    assert far_apart(2, odds, line(0.0, 1.0, 10.0, 4.0), None) == [1, 2]
    assert odds.tolist() == [1.0, 5.0, 2.0, -1.0]


def test_equal_items_are_taken_once_each() -> None:
    rng = np.random.default_rng(0)
    assert far_apart(3, 1, line(2.0, 2.0, 2.0), rng) == [1, 0, 2]
    assert far_apart(3, np.zeros(3), line(2.0, 2.0, 2.0), rng) == [0, 1, 2]


def test_chance_prefers_what_is_far() -> None:
    second = [far_apart(2, 0, line(0.0, 1.0, 3.0), np.random.default_rng(i))[1] for i in range(400)]
    # Odds 1 to 9.
    assert 0.84 < np.mean([pick == 2 for pick in second]) < 0.96
