"""Curves of a stream over its own price."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hydraopt.harm.curves import LEAST_HARM, HarmCurve

PRICES = (1e-6, 1e-5, 1e-4, 1e-3)


def law(price: float, scale: float = 1.0) -> tuple[float, float, float]:
    """(price, size, harm): powers of the price, which a curve gives back exactly."""
    return price, 1e4 * (price / 1e-6) ** -0.4, scale * 0.01 * (price / 1e-6) ** 0.35


def through(trials, **more) -> HarmCurve:
    """A curve through rows of (price, size, harm)."""
    return HarmCurve(*np.array(list(trials), float).T, **more)


def test_a_power_law_comes_back_between_and_beyond_the_trials() -> None:
    curve = through(law(x) for x in reversed(PRICES))
    for price in (3e-7, 1e-6, 4e-5, 1e-3):
        at, (_, size, harm) = np.array([math.log(price)]), law(price)
        assert curve.sizes_at(at)[0] == pytest.approx(size, rel=0.02)
        assert curve.harms_at(at)[0] == pytest.approx(harm, rel=0.02)


def test_harm_that_falls_by_chance_is_levelled() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        harms = rng.random(4) * (rng.random(4) > 0.3)
        curve = HarmCurve(np.array(PRICES), np.ones(4), harms)
        seen = curve.harms_at(np.linspace(*curve.range, 200))
        assert (np.diff(seen) >= -1e-12).all()
        assert seen.min() >= 0
        assert np.isfinite(seen).all()


def test_a_measured_zero_is_a_small_number() -> None:
    curve = through([(1e-6, 2.0, 0.0), (1e-5, 1.0, 0.1)])
    assert curve.harms_at(np.log([1e-6]))[0] == pytest.approx(LEAST_HARM)


def test_what_is_measured_again_moves_the_bytes_of_the_trials_before() -> None:
    curve = through(law(x) for x in PRICES)
    here, at = np.log([3e-5]), np.log(PRICES)
    size, harm = 2 * curve.sizes_at(here)[0], 1.2 * curve.harms_at(here)[0]
    moved = curve.corrected(3e-5, size, harm)
    assert moved.sizes_at(at) == pytest.approx(2 * curve.sizes_at(at))
    assert moved.harms_at(at) == pytest.approx(curve.harms_at(at))
    assert moved.harms_at(here) == pytest.approx(harm)


def test_a_task_that_fares_well_cannot_be_given_up_for_it() -> None:
    """Its last trial lost nearly all, and still does."""
    harms = (0.01, 0.05, 0.3, 0.36)
    trials = ((p, 1e4 / (i + 1), harms[i]) for i, p in enumerate(PRICES))
    moved = through(trials).corrected(PRICES[1] * 2, 4e3, 0.02)
    assert moved.harms_at(np.log([PRICES[-1]]))[0] > 0.25


def test_a_cliff_does_not_carry_the_fine_trials_over() -> None:
    """What is fine at a low price stays far better than what fell off at a high one."""
    trials = ((p, 1e4 / (i + 1), 1e-5) for i, p in enumerate(PRICES))
    moved = through(trials).corrected(9e-4, 1e3, 0.9)
    assert moved.harms_at(np.log([1e-4]))[0] < 1e-4
    assert moved.harms_at(np.log([9e-4]))[0] > 0.4


def test_nothing_coarser_than_the_trials_is_believed() -> None:
    assert through(law(x) for x in PRICES).range[1] == pytest.approx(math.log(PRICES[-1]))


def test_a_point_without_a_measured_harm_tells_of_bytes_alone() -> None:
    curve = through([*(law(x) for x in PRICES[:3]), (1e-3, 1.0, math.nan)])
    assert curve.range[1] < math.log(1e-3)
    assert curve.sizes_at(np.log([1e-3]))[0] == pytest.approx(1.0)
