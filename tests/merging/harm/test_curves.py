"""Curves of a stream over its own price."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hydraopt.merging.harm.curves import LEAST_HARM, Curve, TrialPoint

PRICES = (1e-6, 1e-5, 1e-4, 1e-3)


def law(price: float, scale: float = 1.0) -> TrialPoint:
    """Powers of the price, which a curve in logarithms has to give back exactly."""
    return TrialPoint(price, 1e4 * (price / 1e-6) ** -0.4, 0.1 * (price / 1e-6) ** 0.3,
                      scale * 0.01 * (price / 1e-6) ** 0.35)  # fmt: skip


def test_a_power_law_comes_back_between_and_beyond_the_trials() -> None:
    curve = Curve(tuple(law(x) for x in reversed(PRICES)))
    for price in (3e-7, 1e-6, 4e-5, 1e-3, 5e-3):
        at, wanted = np.array([math.log(price)]), law(price)
        assert curve.sizes(at)[0] == pytest.approx(wanted.size, rel=0.02)
        assert curve.errors(at)[0] == pytest.approx(wanted.error, rel=0.02)
        assert curve.harms(at)[0] == pytest.approx(wanted.harm, rel=0.02)


def test_harm_that_falls_by_chance_is_levelled() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        harms = rng.random(4) * (rng.random(4) > 0.3)
        points = (TrialPoint(p, 1.0, 0.1, float(h)) for p, h in zip(PRICES, harms, strict=True))
        curve = Curve(tuple(points))
        seen = curve.harms(np.linspace(*curve.range, 200))
        assert (np.diff(seen) >= -1e-12).all()
        assert seen.min() >= 0
        assert np.isfinite(seen).all()


def test_a_measured_zero_is_a_small_number() -> None:
    curve = Curve((TrialPoint(1e-6, 2.0, 0.1, 0.0), TrialPoint(1e-5, 1.0, 0.2, 0.1)))
    assert curve.harms(np.log([1e-6]))[0] == pytest.approx(LEAST_HARM)


def test_what_is_measured_again_shifts_the_whole_curve() -> None:
    curve = Curve(tuple(law(x) for x in PRICES))
    moved = curve.corrected(TrialPoint(1e-4, 2 * law(1e-4).size, 0.5, 3 * (law(1e-4).harm or 0)))
    at = np.log(PRICES)
    assert moved.harms(at) == pytest.approx(3 * curve.harms(at))
    assert moved.sizes(at) == pytest.approx(2 * curve.sizes(at))
    again = moved.corrected(law(1e-4))
    assert again.harms(at) == pytest.approx(curve.harms(at))


def test_a_point_without_a_measured_harm_tells_of_bytes_alone() -> None:
    some = [law(x) for x in PRICES]
    curve = Curve((*some[:3], TrialPoint(1e-3, 1.0, 0.9, None)))
    assert curve.range[1] < math.log(1e-3 * 30)
    assert curve.sizes(np.log([1e-3]))[0] == pytest.approx(1.0)
