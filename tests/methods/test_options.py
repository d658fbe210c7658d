"""Options and weights that make no sense are told in words; those that do give finite numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt import read_adapters
from hydraopt.adapters import Adapter
from hydraopt.errors import NumericalError, UsageError
from hydraopt.merging import Method, apply
from hydraopt.merging.hydra import hydra
from tests.methods.method_cases import AVERAGE, apart, made, unrelated
from tests.raising import raises

HUGE = 10**5000  # of more digits than Python prints


@pytest.fixture
def three(make_adapter: Callable[..., Path], tmp_path: Path) -> list[Adapter]:
    folders = [
        make_adapter(tmp_path / name, {"h.0.q": (f.B, f.A), "h.1.v": (f.B, f.A)})
        for name, f in zip(("de", "es", "fr"), unrelated(1), strict=True)
    ]
    return read_adapters(folders)


@pytest.mark.parametrize("name", ["heads", "rank", "starts", "seed", "scales"])
@pytest.mark.parametrize(
    "value", ["3", [1], 2.5, -1, pytest.param(HUGE, id="huge"), math.nan, math.inf]
)
def test_wrong_values_are_refused(name: str, value: Any, three: list[Adapter]) -> None:
    with pytest.raises(UsageError):
        apply(three, "hydraopt", **{name: value})


@pytest.mark.parametrize("name", ["heads", "rank", "starts", "seed"])
def test_a_switch_is_no_number(name: str, three: list[Adapter]) -> None:
    with pytest.raises(UsageError):
        apply(three, "hydraopt", **{name: True})


def test_numbers_of_numpy_are_numbers() -> None:
    once, again = (hydra(unrelated(0), rank=x, seed=3) for x in (2, np.int16(2)))
    assert np.array_equal(made(once), made(again))


# --- weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["hydraopt", AVERAGE])
@pytest.mark.parametrize(
    "value", [math.nan, math.inf, pytest.param(HUGE, id="huge"), "3", True, None, 1j, [1.0]]
)
def test_a_wrong_weight_names_its_adapter(
    method: str | Method, value: Any, three: list[Adapter]
) -> None:
    with raises(UsageError, adapter="es"):
        apply(three, method, weights={"fr": 1.0, "de": 2, "es": value})


def test_only_errors_want_positive_weights(three: list[Adapter]) -> None:
    for weight in (0, -1.0):
        with raises(UsageError, adapter="de"):
            apply(three, "hydraopt", weights={"de": weight})
        apply(three, AVERAGE, weights={"de": weight, "es": 1.0, "fr": 1.0})


def test_wrong_weights_of_factors_are_refused() -> None:
    for value in ("3", None, 1j, True, [1.0], math.nan, HUGE):
        with pytest.raises(UsageError):
            hydra(unrelated(0), weights=[1.0, value, 1.0])
    with pytest.raises(UsageError):
        hydra(unrelated(0), weights=1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("many", [1e308, 1e-308, 5e-324])
def test_only_ratios_of_errors_weights_count(many: float) -> None:
    tasks = unrelated(0, 3, r=2)
    plain, same = (hydra(tasks, 2, 2, weights=[w] * 3) for w in (1.0, many))
    for t in range(3):
        assert apart(made(same, t), made(plain, t)) < 1e-9
    one = hydra(tasks, 2, 2, weights=[many, 1.0, 1e-308])
    assert all(np.isfinite(made(one, t)).all() for t in range(3))


def test_the_module_that_leaves_the_range_is_named(three: list[Adapter]) -> None:
    for weight in (1e308, 1e200):
        with raises(NumericalError, module="h.0.q"):
            apply(three, AVERAGE, weights=dict.fromkeys(("de", "es", "fr"), weight))
