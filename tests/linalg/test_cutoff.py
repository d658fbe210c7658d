"""What counts as a number and what as rounding, relative to the largest."""

from __future__ import annotations

import numpy as np
import pytest

from hydraopt.codec.matrices import GRAM, rank_of, rounding, significant


@pytest.mark.parametrize("scale", [1e-200, 1e-20, 1.0, 1e20])
def test_the_cut_is_relative(scale: float) -> None:
    values = scale * np.array([3.0, 1.0, 2e-12, 1e-12, 0.0])
    assert significant(values, 1e-12).tolist() == [True, True, False, False, False]
    assert rank_of(values, 5e-13) == 3


def test_order_does_not_matter_and_negative_values_never_count() -> None:
    assert significant(np.array([-5.0, 1e-3, 2.0]), 1e-2).tolist() == [False, False, True]
    # Eigenvalues of a zero matrix may come out below zero, all of them.
    assert not significant(np.array([-1e-20, -1e-30]), GRAM).any()
    assert not significant(np.zeros(3), 0.0).any()
    assert significant(np.zeros(0), GRAM).shape == (0,)


def test_what_is_all_rounding_can_be_told() -> None:
    tiny = np.array([1e-310, 5e-311])
    assert significant(tiny, 1e-12).all()
    assert not significant(tiny, 1e-12, least=1e-290).any()


def test_the_share_is_that_of_numpy_and_of_the_dtype() -> None:
    rng = np.random.default_rng(0)
    for m, n, r in ((30, 7, 3), (7, 30, 6), (12, 12, 1)):
        x = rng.standard_normal((m, r)) @ rng.standard_normal((r, n))
        s = np.linalg.svd(x, compute_uv=False)
        assert rank_of(s, rounding(m, n)) == np.linalg.matrix_rank(x) == r
        s = np.linalg.svd(x.astype(np.float32), compute_uv=False)
        assert rank_of(s.astype(np.float64), rounding(m, n, dtype=np.float32)) == r
    assert rounding(3, 8) == 8 * np.finfo(np.float64).eps
    assert rounding(8, dtype=np.float32) == 8 * np.finfo(np.float32).eps
