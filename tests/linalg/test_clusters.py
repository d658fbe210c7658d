"""Starts that lie far apart, and clusters without an empty one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydraopt.linalg.clusters import far_apart, k_means


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


def test_points_in_clumps_are_told_apart() -> None:
    rng = np.random.default_rng(1)
    centres = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    truth = np.repeat(np.arange(3), 20)
    labels = k_means(centres[truth] + 0.3 * rng.standard_normal((60, 2)), 3, rng)
    assert len({tuple(labels[truth == c]) for c in range(3)}) == 3
    assert all(len(set(labels[truth == c])) == 1 for c in range(3))


@given(st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_no_cluster_is_empty(k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 3, (9, 2)).astype(np.float64)
    assert set(k_means(points, k, rng)) == set(range(k))


@pytest.mark.parametrize("k", [1, 4])
def test_all_points_equal(k: int) -> None:
    assert set(k_means(np.ones((5, 3)), k, np.random.default_rng(0))) == set(range(k))
