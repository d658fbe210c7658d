"""Clusters without an empty one."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray

from benchmarks.rivals.merging.kmeans import k_means
from hydraopt.codec import Array
from hydraopt.merging.hydra import far_apart


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


def plain_k_means(points: Array, k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """From all differences at once, (N, k, d)."""
    apart = np.full(len(points), np.inf)

    def nearest(pick: int) -> Array:
        return np.minimum(apart, np.sum((points - points[pick]) ** 2, axis=1), out=apart)

    centres = points[far_apart(k, int(rng.integers(len(points))), nearest, rng)]
    labels = np.full(len(points), -1)
    while True:
        far = np.sum((points[:, None] - centres[None]) ** 2, axis=2)
        new, own = far.argmin(axis=1), far.min(axis=1)
        for c in range(k):
            if not np.any(new == c):
                alone = np.bincount(new, minlength=k)[new] == 1
                worst = int(np.where(alone, -1.0, own).argmax())
                new[worst], own[worst] = c, 0.0
        if np.array_equal(new, labels):
            return labels
        labels = new
        centres = np.stack([points[labels == c].mean(axis=0) for c in range(k)])


@given(st.integers(1, 12), st.integers(1, 6), st.sampled_from([0.0, 1.0, 1e6]), st.integers(0, 99))
def test_labels_are_those_of_all_differences(k: int, d: int, away: float, seed: int) -> None:
    # Points of a grid are equally far from many centres; far from 0 products tell nothing.
    rng = np.random.default_rng(seed)
    points = away + rng.integers(0, 3, (12, d)) * (1 + (seed % 2) * rng.standard_normal((12, 1)))
    want = plain_k_means(points, k, np.random.default_rng(seed))
    assert np.array_equal(k_means(points, k, np.random.default_rng(seed)), want)


def test_differences_to_all_centres_are_not_held() -> None:
    # They would take 400 * 20 * 500 numbers, 32 MB; the points take 1.6 MB.
    rng = np.random.default_rng(0)
    points = rng.standard_normal((400, 500))
    tracemalloc.start()
    try:
        k_means(points, 20, rng)
        assert tracemalloc.get_traced_memory()[1] < 9_000_000
    finally:
        tracemalloc.stop()
