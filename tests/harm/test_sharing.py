"""Own prices from curves."""

from __future__ import annotations

import numpy as np
import pytest

from hydraopt.harm.curves import HarmCurve
from hydraopt.harm.sharing import (
    Costs,
    costs_of,
    part_of_the_way,
    prices_for_limit,
    prices_for_size,
    prices_if_fair,
)


def alike(count: int, fair: bool = False) -> Costs:
    return costs_of(np.ones(count), np.ones(count), fair)


PRICES = (1e-6, 1e-5, 1e-4, 1e-3)


def curve(
    scale: float, slope: float = 0.35, size: float = 1e4, useful: float = np.inf
) -> HarmCurve:
    ratios = np.array(PRICES) / 1e-6
    return HarmCurve(np.array(PRICES), size * ratios**-0.4, scale * ratios**slope, useful)


def sizes_at(curves, prices) -> float:
    logs = np.log(prices)
    return float(sum(x.sizes_at(logs[i : i + 1])[0] for i, x in enumerate(curves)))


def costs_at(curves, prices, cost: Costs):
    logs = np.log(prices)
    harms = np.stack([x.harms_at(logs[i : i + 1]) for i, x in enumerate(curves)])
    return cost(harms)[:, 0]


def harm_at(curves, prices) -> float:
    return float(costs_at(curves, prices, alike(len(curves))).sum())


def test_a_size_is_kept_and_used_up() -> None:
    curves = [curve(0.001), curve(0.01), curve(0.05)]
    for size in (3000.0, 9000.0, 20000.0):
        prices = prices_for_size(curves, alike(3), size)
        assert 0.95 * size < sizes_at(curves, prices) <= size


def test_prices_go_as_far_as_answers_are_trusted() -> None:
    """From those without prompts: of none not at all, of 24 half the way, of many all of it."""
    curves, size = [curve(0.001), curve(0.01), curve(0.05)], 9000.0
    told, plain = prices_for_size(curves, alike(3), size), np.array([1.0, 1.0, 4.0])

    def at(*answers: int):
        prices = part_of_the_way(curves, told, 1e6 * plain, np.array(answers), size)
        assert sizes_at(curves, prices) == pytest.approx(size, rel=1e-3)
        return np.log(prices) - np.log(prices).mean()  # but for what moves all of them

    start, end = at(0, 0, 0), np.log(told) - np.log(told).mean()
    assert np.ptp(end - start) > 1
    assert start - start[0] == pytest.approx(np.log(plain), abs=1e-6)
    assert at(24, 24, 24) == pytest.approx((start + end) / 2, abs=1e-6)
    assert at(72, 72, 72) == pytest.approx((start + 3 * end) / 4, abs=1e-6)
    assert at(*3 * [10**9]) == pytest.approx(end, abs=1e-6)


def test_no_price_is_one_that_its_curve_does_not_reach() -> None:
    curves = [curve(0.001), curve(0.05, useful=2000.0)]
    plain = np.array([1e9, 1e-9])
    prices = part_of_the_way(curves, np.array([1e-4, 1e-4]), plain, np.array([1, 1]), 6000.0)
    for one, price in zip(curves, prices, strict=True):
        finest, coarsest = one.range
        assert finest <= np.log(price) <= coarsest
    assert sizes_at(curves, prices) <= 6006.0


def test_fair_makes_the_most_that_counts_the_least() -> None:
    """All count the same, and so no other sharing out has a smaller largest one."""
    curves, size = [curve(0.001), curve(0.002), curve(0.004)], 11000.0
    weights, most = np.array([1.0, 1.0, 2.0]), np.array([1.0, 0.7, 1.0])
    cost = costs_of(weights, most, fair=True)
    prices = prices_if_fair(curves, cost, size)
    assert 0.95 * size < sizes_at(curves, prices) <= size
    costs = costs_at(curves, prices, cost)
    assert max(costs) < 1.05 * min(costs)
    other = costs_at(curves, prices_for_size(curves, costs_of(weights, most), size), cost)
    assert max(other) > 1.1 * max(costs)


def test_fair_stops_where_nobody_has_looked() -> None:
    """A task that is hardly harmed is not pushed beyond its coarsest trial."""
    curves = [curve(1e-6), curve(0.05)]
    prices = prices_if_fair(curves, alike(2, fair=True), 12000.0)
    assert prices[0] == pytest.approx(PRICES[-1])
    assert sizes_at(curves, prices) <= 12000.0


def test_tasks_of_more_harm_get_more_bytes_and_the_sum_falls() -> None:
    curves = [curve(0.0005), curve(0.02)]
    same = np.full(2, 1e-4)
    size = sizes_at(curves, same)
    prices = prices_for_size(curves, alike(2), size)
    assert prices[1] < 1e-4 < prices[0]
    assert harm_at(curves, prices) < 0.8 * harm_at(curves, same)


def test_no_other_division_of_the_size_is_better() -> None:
    curves = [curve(0.001, 0.3), curve(0.01, 0.4), curve(0.003, 0.35, 3e4)]
    prices = prices_for_size(curves, alike(3), 12000.0)
    least, rng = harm_at(curves, prices), np.random.default_rng(0)
    for _ in range(300):
        other = prices * np.exp(rng.normal(0, 0.5, 3))
        if sizes_at(curves, other) <= 12000:
            assert harm_at(curves, other) > 0.97 * least


def test_importance_moves_bytes() -> None:
    curves = [curve(0.01), curve(0.01)]
    prices = prices_for_size(curves, costs_of(np.array([5.0, 1.0]), np.ones(2)), 8000.0)
    assert prices[0] < prices[1]


def test_a_hopeless_task_is_not_given_up() -> None:
    """Half of its answers change: by shares alone, taking its last bytes costs others nothing."""
    curves = [curve(0.3, 0.1), curve(0.001)]
    prices = prices_for_size(curves, alike(2), 6000.0)
    assert curves[0].harms_at(np.log(prices[:1]))[0] < 0.9


def test_a_task_that_cannot_lose_much_is_not_given_up() -> None:
    """The first has 0.4 to lose, and its curve ends there: by what is lost alone, its bytes would
    go to the second."""
    curves = [curve(0.02, 0.42), curve(0.02, 0.55)]
    size = sizes_at(curves, np.full(2, 3e-4))
    few = costs_of(np.ones(2), np.array([0.4, 1.0]))
    lost = [
        curves[0].harms_at(np.log(prices_for_size(curves, x, size)[:1])) for x in (few, alike(2))
    ]
    assert lost[0] < 0.85 * lost[1]


def test_who_has_nothing_to_lose_does_not_count_as_the_worst() -> None:
    harms = np.array([[1e-6, 1e-3], [0.1, 0.2]])
    costs = costs_of(np.ones(2), np.array([0.0, 0.4]), fair=True)(harms)
    assert (costs[0] < costs[1]).all()


def test_little_harm_counts_as_it_is() -> None:
    most, harms = np.array([0.3, 1.0]), np.array([[1e-4], [1e-4]])
    assert costs_of(np.ones(2), most)(harms) == pytest.approx(harms, rel=1e-3)
    assert costs_of(np.ones(2), None)(3 * harms) == pytest.approx(3 * harms)
    assert costs_of(np.ones(2), most, fair=True)(harms)[0] == pytest.approx(1e-4 / 0.3, rel=1e-3)


def test_a_limit_is_kept_by_each() -> None:
    curves = [curve(0.001), curve(0.002), curve(0.009)]
    prices = prices_for_limit(curves, 0.01)
    harms = [x.harms_at(np.log(prices[i : i + 1]))[0] for i, x in enumerate(curves)]
    assert all(0.009 < harm <= 0.01 for harm in harms)
    assert prices[0] > prices[1] > prices[2]


def test_a_limit_below_a_curve_takes_its_lowest_price() -> None:
    steep = curve(0.5, 1.0)
    assert prices_for_limit([steep], 1e-9)[0] == pytest.approx(np.exp(steep.range[0]))
