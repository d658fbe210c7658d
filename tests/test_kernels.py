"""Loops that are called with arrays: by their machine code, and by numba, with one result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hydraopt.coding.product import add_products
from hydraopt.coding.ransencoder import emit_numbers, new_meter
from hydraopt.coding.tables import FREQUENCIES, PRICES, Kind
from hydraopt.kernels import Lent, kernel


@kernel("float64[:]", "int64", "float64[:,:]")
def _spread(x: NDArray[np.float64], times: int, out: NDArray[np.float64]) -> None:
    for j in range(times):
        for i in range(x.size):
            out[j, i] = x[i] * 0.3 + j


def spread(x: object, times: int) -> list[list[float]]:
    out = np.zeros((times, 3))
    _spread(x, times, out)
    return out.tolist()


def test_machine_code_and_numba_give_one_result() -> None:
    expected = [[0.3 * x + j for x in (1.0, 2.0, -5.0)] for j in range(2)]
    x, out = np.array([1.0, 2.0, -5.0]), np.zeros((2, 3))
    assert spread(x, 2) == spread(Lent(x), 2) == expected
    _spread.by_numba(Lent(x), 2, out)
    assert out.tolist() == expected


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((3, 4), np.float32), np.zeros(12), np.zeros((4, 3)).T, np.zeros((3, 8))[:, ::2]],
)
def test_an_array_of_another_kind_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(TypeError):
        add_products(np.zeros((3, 5)), np.zeros((3, 4)), wrong)
    with pytest.raises(ValueError, match="argument"):
        add_products(np.zeros((3, 5)), np.zeros((3, 4)))


def test_the_folder_of_kept_code_is_known() -> None:
    spread(np.zeros(3), 1)
    folder = _spread.kept_in
    assert folder is not None
    assert any("_spread" in file.name for file in Path(folder).iterdir())


def test_a_lent_array_is_the_array() -> None:
    steps, meters = np.zeros(64, np.uint16), (new_meter(), new_meter())
    kind, values = Kind.FIRST_CLASS, np.array([1, -3, 200])
    for meter, tables in zip(
        meters, ((FREQUENCIES, PRICES), (Lent(FREQUENCIES), Lent(PRICES))), strict=True
    ):
        emit_numbers(steps, meter, *tables, kind.table, kind.shift, values)
    assert meters[0].tolist() == meters[1].tolist()
