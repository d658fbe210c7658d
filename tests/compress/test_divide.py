"""Bits go to the parts and sides where they take most harm away."""

from __future__ import annotations

import numpy as np
import pytest

from hydraopt.compress.curve import noise_of, rate_of
from hydraopt.compress.divide import Division, PartCosts, divide
from hydraopt.compress.sides import PART_BITS

LENGTHS = 96, 128


def costs_of(seed: int = 0, parts: int = 6, lengths: tuple[int, int] = LENGTHS) -> PartCosts:
    rng = np.random.default_rng(seed)
    left, right = 10.0 ** rng.uniform(-3, 0, (2, parts))
    return PartCosts(left, right, 3 * (left + right), lengths)


def bits_of(division: Division, lengths: tuple[int, int] = LENGTHS) -> float:
    sides = zip(lengths, division.spreads, strict=True)
    return sum(n * rate_of(x).sum() for n, x in sides) + PART_BITS * division.kept.sum()


def harm_of(division: Division, costs: PartCosts) -> float:
    kept = division.kept
    sides = zip((costs.left, costs.right), division.spreads, strict=True)
    return float(sum(x[kept] @ noise_of(y) for x, y in sides) + costs.whole[~kept].sum())


COSTS = {path: costs_of(seed) for seed, path in enumerate("abc")}


@pytest.mark.parametrize("bits", [0, 300, 2000, 8000, 30000])
def test_no_more_bits_are_spent(bits: int) -> None:
    made = divide(COSTS, bits)
    spent = sum(bits_of(x) for x in made.values())
    assert spent <= bits
    # The next step may be a whole part, at the coarsest classes.
    step = sum(LENGTHS) * rate_of(np.array([14])).sum() + PART_BITS
    assert spent >= bits - step
    assert all(len(x) == y.kept.sum() for y in made.values() for x in y.spreads)


def test_more_bits_cost_less_harm() -> None:
    harm = [
        sum(harm_of(x, COSTS[path]) for path, x in divide(COSTS, bits).items())
        for bits in (0, 500, 2000, 8000)
    ]
    assert harm == sorted(harm, reverse=True)
    assert harm[0] == pytest.approx(sum(x.whole.sum() for x in COSTS.values()))


def test_nothing_is_gained_by_moving_a_class_from_one_side_to_another() -> None:
    made = divide(COSTS, 6000)
    gains, losses = [], []
    for path, (kept, spreads) in made.items():
        costs = (COSTS[path].left[kept], COSTS[path].right[kept])
        for cost, classes, length in zip(costs, spreads, LENGTHS, strict=True):
            for change, slopes in ((1, gains), (-1, losses)):
                fine = classes + change > 12
                noise = cost * (noise_of(classes + change) - noise_of(classes))
                rate = length * (rate_of(classes + change) - rate_of(classes))
                slopes += (-noise / rate)[fine].tolist()
    assert max(gains) <= min(losses) * (1 + 1e-6)


def test_a_side_that_costs_more_gets_more_bits_and_parts_that_cost_little_are_left_out() -> None:
    left = np.array([1.0, 0.1, 1e-9])
    costs = PartCosts(left, left[::-1] + 1e-9, np.array([2.0, 0.3, 1e-9]), (100, 100))
    (division,) = divide({"x": costs}, 600).values()
    assert division.kept.tolist() == [True, True, False]
    assert division.spreads.left[0] > division.spreads.left[1]


def test_a_module_that_costs_nothing_keeps_nothing() -> None:
    nothing = PartCosts(*np.zeros((3, 4)), LENGTHS)
    made = divide({"a": COSTS["a"], "b": nothing}, 1000)
    assert made["a"].kept.any()
    assert not made["b"].kept.any()
