"""Limits as users write them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hydraopt.errors import UsageError
from hydraopt.merging import MeanError
from hydraopt.merging.limits import WorstError, parse_harm, parse_size
from tests.raising import raises


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("5%", 50), ("0.5 %", 5), ("3MB", 3_000_000), ("2MiB", 2_097_152), ("800kb", 800_000)],
)
def test_sizes(text: str, bytes_: int) -> None:
    assert parse_size(text, 1000) == bytes_
    assert parse_size(4711, 1000) == 4711


@pytest.mark.parametrize(
    "text", ["", "5", "-5%", "0", "0.05", "5 pounds", "1e999", "%", "nan%", "MB"]
)
def test_sizes_that_make_no_sense(text: str) -> None:
    if text == "5":
        assert parse_size(text, 1000) == 5
        return
    with pytest.raises(UsageError):
        parse_size(text, 1000)


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, math.nan])
def test_errors_are_fractions(value: float) -> None:
    with pytest.raises(UsageError):
        MeanError(value)
    with pytest.raises(UsageError):
        WorstError(value)


@pytest.mark.parametrize("number", [0.25, np.float32(0.25), np.float64(0.25), np.float16(0.25)])
def test_limits_on_errors_are_kept_as_floats(number: float) -> None:
    """A recipe is JSON, which takes no other number."""
    for limit in (MeanError(number).limit, WorstError(number).limit):
        assert type(limit) is float
        assert limit == 0.25


@pytest.mark.parametrize("value", ["0.1", True, None, [0.1], 1j])
def test_limits_on_errors_are_numbers(value: object) -> None:
    with pytest.raises(UsageError):
        MeanError(value)  # type: ignore[arg-type]


def test_a_limit_of_very_many_digits_is_told_so() -> None:
    with raises(UsageError, got="a number of very many digits"):
        parse_size(10**5000, 1000)
    with raises(UsageError, got="a number of very many digits"):
        parse_harm(10**5000)  # type: ignore[arg-type]
    assert parse_size(10**100, 1000) == pytest.approx(1e100)


def test_what_each_kind_limits() -> None:
    errors = np.array([0.1, 0.2, 0.6])
    assert MeanError(0.5).of(errors) == pytest.approx(0.3)
    assert WorstError(0.5).of(errors) == 0.6
