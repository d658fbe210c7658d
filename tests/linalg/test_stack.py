"""Thin SVDs of many products at once: those of each, whatever else is in the stack."""

from __future__ import annotations

import numpy as np
import pytest

from hydraopt.codec import Array, thin
from hydraopt.codec.matrices import inverses, symmetric_inverse, thin_stack

T, R, M, N = 7, 6, 50, 40


def factors(seed: int = 0) -> tuple[Array, Array]:
    """Rows of B^T and A: falling ones, two alike or nearly so, zeros, large ones, small ones."""
    rng = np.random.default_rng(seed)
    b, a = rng.standard_normal((T, R, M)), rng.standard_normal((T, R, N))
    b *= np.geomspace(1, 1e-6, R)[:, None]
    b[1, 3] = b[1, 2]
    b[2, 1] = b[2, 0] * (1 + 1e-7 * rng.standard_normal(M))
    b[3] = 0
    a[4, 0] = 0
    a[5] *= 1e25
    b[6] *= 1e-25
    return b, a


def test_each_is_the_svd_of_its_product() -> None:
    b, a = factors()
    for t, (u, s, v) in enumerate(zip(*thin_stack(b, a), strict=True)):
        wanted = thin(b[t].T, a[t])
        assert s.size == wanted.s.size == len(u) == len(v)
        np.testing.assert_allclose(s, wanted.s, rtol=1e-9)
        np.testing.assert_allclose(u.T, wanted.U, atol=3e-7)
        np.testing.assert_allclose(v.T, wanted.V, atol=3e-7)
        assert u.dtype == v.dtype == np.float32


def test_a_part_that_is_rounding_is_cut() -> None:
    rng = np.random.default_rng(4)
    b, a = rng.standard_normal((2, 4, M)), rng.standard_normal((2, 4, N))
    b[0, 3] *= 1e-8
    a[0, 3] *= 1e-8  # each factor tells enough of itself; their product does not
    assert [s.size for s in thin_stack(b, a)[1]] == [3, 4]
    assert thin(b[0].T, a[0]).s.size == 3


@pytest.mark.parametrize("t", range(T))
def test_what_else_is_in_the_stack_changes_no_bit(t: int) -> None:
    b, a = factors(1)
    together = thin_stack(b, a)
    alone = thin_stack(b[t : t + 1], a[t : t + 1])
    for x, y in zip(together, alone, strict=True):
        assert np.array_equal(x[t], y[0])


@pytest.mark.parametrize(("m", "n"), [(3, 9), (9, 3), (1, 1)])
def test_more_vectors_than_numbers(m: int, n: int) -> None:
    rng = np.random.default_rng(2)
    b, a = rng.standard_normal((2, 5, m)), rng.standard_normal((2, 5, n))
    for t, (u, s, v) in enumerate(zip(*thin_stack(b, a), strict=True)):
        assert s.size <= min(m, n)
        np.testing.assert_allclose((u.T * s) @ v, b[t].T @ a[t], atol=1e-5)


def test_inverses_are_those_of_each_also_where_there_is_none() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((4, 5, 9))
    x[1, 2] = 0
    x[2] = 0
    x[3, 4] = x[3, 0]
    grams = x @ x.transpose(0, 2, 1)
    wanted = [symmetric_inverse(gram) for gram in grams]
    np.testing.assert_allclose(inverses(grams), wanted, atol=1e-9)
