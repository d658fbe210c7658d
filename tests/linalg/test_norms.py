"""Norms of products that are never formed, and of differences that nearly vanish."""

from __future__ import annotations

import numpy as np
import pytest

from hydraopt.codec import Factors, distance, product_norm, ratio, relative_error


def drawn(seed: int, m: int = 9, n: int = 14, r: int = 3) -> Factors:
    rng = np.random.default_rng(seed)
    return Factors(rng.standard_normal((m, r)), rng.standard_normal((r, n)))


def test_norms_are_those_of_the_product() -> None:
    one, two = drawn(0), drawn(1, r=5)
    dense, other = one.B @ one.A, two.B @ two.A
    assert product_norm(one.B, one.A) == pytest.approx(float(np.linalg.norm(dense)))
    assert distance(one, two) == pytest.approx(float(np.linalg.norm(dense - other)))
    assert relative_error(one, two) == pytest.approx(
        float(np.linalg.norm(dense - other) / np.linalg.norm(dense))
    )


@pytest.mark.parametrize("size", [1e-3, 1e-9, 1e-13])
def test_a_small_difference_does_not_cancel(size: float) -> None:
    one = drawn(2)
    near = Factors(one.B, one.A + size * drawn(3).A)
    wanted = float(np.linalg.norm(one.B @ (size * drawn(3).A)))
    assert distance(one, near) == pytest.approx(wanted, rel=0.02)


def test_nothing_is_like_nothing_and_unlike_something() -> None:
    one, none = drawn(4), Factors(np.zeros((9, 0)), np.zeros((0, 14)))
    assert product_norm(none.B, none.A) == relative_error(none, none) == 0.0
    assert relative_error(one, none) == pytest.approx(1.0)
    assert relative_error(none, one) == ratio(0.5, 0.0) == 1.0
    assert ratio(0.5, 2.0) == 0.25


def test_factors_of_any_float_type_are_float64() -> None:
    one = drawn(5)
    half = Factors.of(one.B.astype(np.float16), one.A.astype(np.float32))
    assert half.B.dtype == half.A.dtype == np.float64
    assert np.array_equal(half.B, one.B.astype(np.float16).astype(np.float64))
    assert not np.shares_memory(Factors.of(one.B, one.A).B, one.B)
