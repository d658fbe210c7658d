"""Products have one order of sums, whatever the machine."""

from __future__ import annotations

import numpy as np
from hypothesis import given, strategies as st

from hydraopt.codec.tables import product_of_parts


def _by_the_book(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    out = np.zeros((left.shape[0], right.shape[1]))
    for i in range(left.shape[0]):
        for c in range(right.shape[1]):
            total = 0.0
            for j in range(left.shape[1]):
                total += float(left[i, j]) * float(right[j, c])
            out[i, c] = total
    return out


@given(st.integers(0, 1 << 32), st.tuples(*[st.integers(0, 9)] * 3), st.booleans())
def test_the_bits_are_those_of_the_loops(seed: int, sizes: tuple[int, ...], turned: bool) -> None:
    rows, inner, columns = sizes
    draw = np.random.default_rng(seed)
    left = draw.standard_normal((rows, inner)) * 10.0 ** draw.integers(-9, 9, inner)
    right = draw.standard_normal((inner, columns)) * draw.integers(0, 2, (inner, columns))
    if turned:
        left = np.asfortranarray(left)
    assert product_of_parts(left, right).tobytes("C") == _by_the_book(left, right).tobytes()


def test_the_order_of_sums_is_that_of_the_columns() -> None:
    left = np.array([[1e16, 1.0, -1e16]])
    assert product_of_parts(left, np.ones((3, 1)))[0, 0] == 0
    assert product_of_parts(left[:, [0, 2, 1]], np.ones((3, 1)))[0, 0] == 1


def test_more_rows_than_are_taken_at_a_time() -> None:
    left = np.random.default_rng(1).standard_normal((2500, 3))
    right = np.random.default_rng(2).integers(-3, 4, (3, 2)).astype(np.int32)
    assert product_of_parts(left, right).tobytes("C") == _by_the_book(left, right).tobytes()


def test_a_product_and_a_sum_are_two_roundings() -> None:
    a = 1 + 2.0**-30
    left = np.array([[a, 1.0]])
    # a * a needs 61 bits: fused with the sum, what is rounded away would stay.
    assert product_of_parts(left, np.array([[a], [-(a * a)]]))[0, 0] == 0
    assert product_of_parts(left[:, ::-1], np.array([[-(a * a)], [a]]))[0, 0] == 0
