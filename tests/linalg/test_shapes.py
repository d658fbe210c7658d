"""The grid of coefficients, and the thin SVD that everything starts from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from hydraopt.codec import Factors, thin
from hydraopt.codec.tables import EXPONENT_GRID, exponents, power
from tests.compress.core_factors import dense, low_rank

EXPONENTS = st.integers(-6400, 6400)


@given(EXPONENTS)
def test_the_grid_is_a_power_of_two(e: int) -> None:
    value = float(power(np.array([e]))[0])
    assert value == pytest.approx(2 ** (e / EXPONENT_GRID), rel=2**-30)
    assert float(power(np.array([e + EXPONENT_GRID]))[0]) == 2 * value
    assert value < float(power(np.array([e + 1]))[0])
    assert exponents(np.array([value])).tolist() == [e]


@given(st.floats(1e-50, 1e50))
def test_exponent_is_the_nearest(value: float) -> None:
    e = int(exponents(np.array([value]))[0])
    assert abs(EXPONENT_GRID * math.log2(value) - e) <= 0.5 + 1e-9
    # 2^(1/64): half a step of the grid.
    assert 2 ** (-1 / 64) * 0.999 < value / float(power(np.array([e]))[0]) < 2 ** (1 / 64) * 1.001


def test_the_table_is_the_formats() -> None:
    values = (power(np.arange(EXPONENT_GRID)) * 2**30).astype(np.int64)
    assert values[[0, 1, 16, 31]].tolist() == [1073741824, 1097253708, 1518500250, 2101467502]
    assert [round(2 ** (30 + i / 32)) for i in range(32)] == values.tolist()


SHAPES = [(9, 7, 3), (7, 9, 1), (5, 4, 11), (1, 6, 2), (6, 1, 4), (1, 1, 3)]


@pytest.mark.parametrize(("m", "n", "r"), SHAPES)
def test_thin_is_the_svd_of_the_product(m: int, n: int, r: int) -> None:
    rng = np.random.default_rng(m + n)
    B, A = rng.standard_normal((m, r)), rng.standard_normal((r, n))
    t = thin(B, A)
    k = t.s.size
    assert k <= min(m, n, r)
    assert t.U.shape == (m, k)
    assert t.V.shape == (n, k)
    assert np.allclose(t.U * t.s @ t.V.T, B @ A)
    assert np.allclose(t.U.T @ t.U, np.eye(k))
    assert np.allclose(t.V.T @ t.V, np.eye(k))
    assert np.allclose(t.s, np.linalg.svd(B @ A, compute_uv=False)[:k])
    assert (np.diff(t.s) <= 0).all()
    assert t.energy == pytest.approx(float((B @ A).ravel() @ (B @ A).ravel()))


@pytest.mark.parametrize(("m", "n", "r"), [(8, 6, 3), (4, 5, 9)])
def test_zero_products_have_no_parts(m: int, n: int, r: int) -> None:
    rng = np.random.default_rng(0)
    for B, A in (
        (np.zeros((m, r)), rng.standard_normal((r, n))),
        (rng.standard_normal((m, r)), np.zeros((r, n))),
    ):
        t = thin(B, A)
        assert t.s.size == 0
        assert t.U.shape == (m, 0)
        assert t.V.shape == (n, 0)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_the_rank_cut_is_relative(scale: float) -> None:
    rng = np.random.default_rng(2)
    B, A = low_rank(rng, 30, 20, 6)
    B[:, 4] = B[:, 0]  # one direction twice: rank 5, or 6 with the noise of rounding
    A[4] = A[0]
    assert thin(B * scale, A * scale).s.size == thin(B, A).s.size == 5


def test_factors_compute_norm_and_inner_product_without_the_product() -> None:
    rng = np.random.default_rng(3)
    one, two = (Factors(*low_rank(rng, 10, 12, r)) for r in (3, 5))
    assert one.squared_norm() == pytest.approx(float(np.sum(dense(one) ** 2)))
    assert one.inner(two) == pytest.approx(float(np.sum(dense(one) * dense(two))))
