"""Compiled loops take the arrays that they were written for, and no others."""

from __future__ import annotations

import numpy as np
import pytest

from hydraopt.codec import loops, tables


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (np.zeros((3, 4), np.float32), TypeError),
        (np.zeros((3, 4), ">f8"), TypeError),
        (np.zeros((3, 4), np.int64), TypeError),
        (np.zeros(12), TypeError),
        ("text", TypeError),
        (np.zeros((4, 3)).T, ValueError),
        (np.zeros((3, 8))[:, ::2], ValueError),
        (np.broadcast_to(0.0, (3, 4)), ValueError),
        (np.zeros((3, 5)), ValueError),
    ],
)
def test_an_array_of_another_kind_is_refused(wrong: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        loops.add_products(np.zeros((2, 4)), np.zeros((2, 3)), wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="2 arguments, expected 3"):
        loops.add_products(np.zeros((2, 4)), np.zeros((2, 3)))  # type: ignore[call-arg]


def test_an_encoder_without_room_writes_nothing() -> None:
    steps, meter = np.zeros(17, np.uint16), np.zeros(2, np.int64)
    about = tables.FREQUENCIES, tables.PRICES, tables.Kind.COUNT.table, 0
    with pytest.raises(ValueError, match="shapes"):
        loops.emit_numbers(steps, meter, *about, np.array([1, 1 << 29]))
    assert not steps.any()
    assert not meter.any()


def test_a_table_that_does_not_exist_is_refused() -> None:
    steps, meter = np.zeros(90, np.uint16), np.zeros(2, np.int64)
    for table in (-1, len(tables.FREQUENCIES)):
        with pytest.raises(ValueError, match="shapes"):
            loops.emit_numbers(
                steps, meter, tables.FREQUENCIES, tables.PRICES, table, 0, np.array([1])
            )
