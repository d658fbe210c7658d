"""The strongest directions of a matrix, through products with it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hydraopt.linalg.rangefinder import dominant_range


def falling(decay: float, size: int = 60) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(X, U): a square matrix whose singular values fall by ``decay``, and its left vectors."""
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2))
    return u * decay ** np.arange(size) @ v.T, u


def found(x: NDArray[np.float64], k: int, rounds: int):
    probe = np.random.default_rng(1).standard_normal((x.shape[1], k))
    return dominant_range(lambda p: x @ p, lambda p: x.T @ p, probe, rounds)


def test_it_is_orthonormal_and_holds_the_strongest() -> None:
    x, u = falling(0.7)
    left, back = found(x, 12, 3)
    assert np.allclose(left.T @ left, np.eye(12))
    assert np.allclose(back, x.T @ left)
    assert np.allclose(np.linalg.norm(left.T @ u[:, :8], axis=0), 1, atol=1e-6)


def test_more_rounds_come_nearer() -> None:
    x, u = falling(0.93)
    missed = [1 - np.linalg.norm(found(x, 8, k)[0].T @ u[:, 7]) for k in (1, 3, 6)]
    assert missed[0] > missed[1] > missed[2]
    assert missed[2] < 0.5 * missed[0]


def test_values_over_nine_decades_are_told_apart() -> None:
    # Their squares leave float64's range, so without a QR in each round the last would be rounding.
    x, u = falling(0.1)
    left = found(x, 12, 4)[0]
    assert np.allclose(np.linalg.norm(left.T @ u[:, :10], axis=0), 1, atol=1e-6)


def test_it_keeps_the_dtype() -> None:
    x = falling(0.8)[0].astype(np.float32)
    probe = np.ones((60, 1), np.float32)
    left, back = dominant_range(lambda p: x @ p, lambda p: x.T @ p, probe, 2)
    assert left.dtype == back.dtype == np.float32
