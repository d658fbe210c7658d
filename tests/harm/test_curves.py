"""Curves of a stream over its own price."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hydraopt.harm.curves import LEAST_HARM, HarmCurve, TrialPoint

PRICES = (1e-6, 1e-5, 1e-4, 1e-3)


def law(price: float, scale: float = 1.0) -> TrialPoint:
    """Powers of the price, which a curve in logarithms has to give back exactly."""
    return TrialPoint(price, 1e4 * (price / 1e-6) ** -0.4, 0.1 * (price / 1e-6) ** 0.3,
                      scale * 0.01 * (price / 1e-6) ** 0.35)  # fmt: skip


def test_a_power_law_comes_back_between_and_beyond_the_trials() -> None:
    curve = HarmCurve(tuple(law(x) for x in reversed(PRICES)))
    for price in (3e-7, 1e-6, 4e-5, 1e-3):
        at, wanted = np.array([math.log(price)]), law(price)
        assert curve.sizes(at)[0] == pytest.approx(wanted.size, rel=0.02)
        assert curve.harms(at)[0] == pytest.approx(wanted.harm, rel=0.02)


def test_harm_that_falls_by_chance_is_levelled() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        harms = rng.random(4) * (rng.random(4) > 0.3)
        points = (TrialPoint(p, 1.0, 0.1, float(h)) for p, h in zip(PRICES, harms, strict=True))
        curve = HarmCurve(tuple(points))
        seen = curve.harms(np.linspace(*curve.range, 200))
        assert (np.diff(seen) >= -1e-12).all()
        assert seen.min() >= 0
        assert np.isfinite(seen).all()


def test_a_measured_zero_is_a_small_number() -> None:
    curve = HarmCurve((TrialPoint(1e-6, 2.0, 0.1, 0.0), TrialPoint(1e-5, 1.0, 0.2, 0.1)))
    assert curve.harms(np.log([1e-6]))[0] == pytest.approx(LEAST_HARM)


def test_what_is_measured_again_moves_the_bytes_of_the_trials_before() -> None:
    curve = HarmCurve(tuple(law(x) for x in PRICES))
    seen = TrialPoint(3e-5, 2 * float(curve.sizes(np.log([3e-5]))[0]), 0.5,
                      1.2 * float(curve.harms(np.log([3e-5]))[0]))  # fmt: skip
    moved, at = curve.corrected(seen), np.log(PRICES)
    assert moved.sizes(at) == pytest.approx(2 * curve.sizes(at))
    assert moved.harms(at) == pytest.approx(curve.harms(at))
    assert moved.harms(np.log([3e-5])) == pytest.approx(seen.harm)


def test_a_task_that_fares_well_cannot_be_given_up_for_it() -> None:
    """Its last trial lost nearly all, and still does."""
    harms = (0.01, 0.05, 0.3, 0.36)
    points = (TrialPoint(p, 1e4 / (i + 1), 0.1, harms[i]) for i, p in enumerate(PRICES))
    moved = HarmCurve(tuple(points)).corrected(TrialPoint(PRICES[1] * 2, 4e3, 0.3, 0.02))
    assert moved.harms(np.log([PRICES[-1]]))[0] > 0.25


def test_a_cliff_does_not_carry_the_fine_trials_over() -> None:
    """What is fine at a low price stays far better than what fell off at a high one."""
    points = (TrialPoint(p, 1e4 / (i + 1), 0.1, 1e-5) for i, p in enumerate(PRICES))
    moved = HarmCurve(tuple(points)).corrected(TrialPoint(9e-4, 1e3, 1.0, 0.9))
    assert moved.harms(np.log([1e-4]))[0] < 1e-4
    assert moved.harms(np.log([9e-4]))[0] > 0.4


def test_nothing_coarser_than_the_trials_is_believed() -> None:
    assert HarmCurve(tuple(law(x) for x in PRICES)).range[1] == pytest.approx(math.log(PRICES[-1]))


def test_a_point_without_a_measured_harm_tells_of_bytes_alone() -> None:
    some = [law(x) for x in PRICES]
    curve = HarmCurve((*some[:3], TrialPoint(1e-3, 1.0, 0.9, None)))
    assert curve.range[1] < math.log(1e-3)
    assert curve.sizes(np.log([1e-3]))[0] == pytest.approx(1.0)
