"""Own prices from curves."""

from __future__ import annotations

import numpy as np
import pytest

from hydraopt.merging.harm.curves import HarmCurve, TrialPoint
from hydraopt.merging.harm.sharing import (
    counted,
    prices_for_limit,
    prices_for_size,
    prices_if_fair,
)

PRICES = (1e-6, 1e-5, 1e-4, 1e-3)


def curve(scale: float, slope: float = 0.35, size: float = 1e4) -> HarmCurve:
    return HarmCurve(
        tuple(
            TrialPoint(p, size * (p / 1e-6) ** -0.4, 0.1, scale * (p / 1e-6) ** slope)
            for p in PRICES
        )
    )


def sizes_at(curves, prices) -> float:
    logs = np.log(prices)
    return float(sum(x.sizes(logs[i : i + 1])[0] for i, x in enumerate(curves)))


def harm_at(curves, prices) -> float:
    logs = np.log(prices)
    return float(sum(counted(x.harms(logs[i : i + 1]))[0] for i, x in enumerate(curves)))


def test_a_size_is_kept_and_used_up() -> None:
    curves = [curve(0.001), curve(0.01), curve(0.05)]
    for size in (3000.0, 9000.0, 20000.0):
        prices = prices_for_size(curves, np.ones(3), size, True)
        assert 0.95 * size < sizes_at(curves, prices) <= size


def test_fair_makes_the_most_that_counts_the_least() -> None:
    """All count the same, and so no other sharing out has a smaller largest one."""
    curves, size = [curve(0.001), curve(0.002), curve(0.004)], 9000.0
    importance = np.array([1.0, 1.0, 2.0])
    prices = prices_if_fair(curves, importance, size, True)
    assert 0.95 * size < sizes_at(curves, prices) <= size
    logs = np.log(prices)
    costs = [importance[i] * counted(x.harms(logs[i : i + 1]))[0] for i, x in enumerate(curves)]
    assert max(costs) < 1.05 * min(costs)
    summed = np.log(prices_for_size(curves, importance, size, True))
    other = [importance[i] * counted(x.harms(summed[i : i + 1]))[0] for i, x in enumerate(curves)]
    assert max(other) > 1.1 * max(costs)


def test_fair_stops_where_nobody_has_looked() -> None:
    """A task that is hardly harmed is not pushed beyond its coarsest trial."""
    curves = [curve(1e-6), curve(0.05)]
    prices = prices_if_fair(curves, np.ones(2), 12000.0, True)
    assert prices[0] == pytest.approx(PRICES[-1])
    assert sizes_at(curves, prices) <= 12000.0


def test_tasks_of_more_harm_get_more_bytes_and_the_sum_falls() -> None:
    curves = [curve(0.0005), curve(0.02)]
    alike = np.full(2, 1e-4)
    size = sizes_at(curves, alike)
    prices = prices_for_size(curves, np.ones(2), size, True)
    assert prices[1] < 1e-4 < prices[0]
    assert harm_at(curves, prices) < 0.8 * harm_at(curves, alike)


def test_no_other_division_of_the_size_is_better() -> None:
    curves = [curve(0.001, 0.3), curve(0.01, 0.4), curve(0.003, 0.35, 3e4)]
    prices = prices_for_size(curves, np.ones(3), 12000.0, True)
    least, rng = harm_at(curves, prices), np.random.default_rng(0)
    for _ in range(300):
        other = prices * np.exp(rng.normal(0, 0.5, 3))
        if sizes_at(curves, other) <= 12000:
            assert harm_at(curves, other) > 0.97 * least


def test_importance_moves_bytes() -> None:
    curves = [curve(0.01), curve(0.01)]
    prices = prices_for_size(curves, np.array([5.0, 1.0]), 8000.0, True)
    assert prices[0] < prices[1]


def test_a_hopeless_task_is_not_given_up() -> None:
    """Half of its answers change: by shares alone, taking its last bytes costs others nothing."""
    curves = [curve(0.3, 0.1), curve(0.001)]
    prices = prices_for_size(curves, np.ones(2), 6000.0, True)
    assert curves[0].harms(np.log(prices[:1]))[0] < 0.9


def test_a_limit_is_kept_by_each() -> None:
    curves = [curve(0.001), curve(0.002), curve(0.009)]
    prices = prices_for_limit(curves, 0.01)
    harms = [x.harms(np.log(prices[i : i + 1]))[0] for i, x in enumerate(curves)]
    assert all(0.009 < harm <= 0.01 for harm in harms)
    assert prices[0] > prices[1] > prices[2]


def test_a_limit_below_a_curve_takes_its_lowest_price() -> None:
    steep = curve(0.5, 1.0)
    assert prices_for_limit([steep], 1e-9)[0] == pytest.approx(np.exp(steep.range[0]))
