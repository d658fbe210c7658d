"""The trellis quantiser: its objective, its noise, its paths."""

from __future__ import annotations

import itertools
from inspect import unwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydraopt.coding import trellis
from hydraopt.coding.stream import LAMBDA, quantise_block
from hydraopt.coding.tables import level_bits
from hydraopt.coding.trellis import STATES
from hydraopt.coding.trellis import levels_of as levels_behind
from hydraopt.compiled import LENT, njit

# Only compiled code calls them elsewhere.
quantise, reconstruct = (njit(**LENT)(unwrap(x)) for x in (trellis.quantise, trellis.reconstruct))

COLUMN = st.lists(st.floats(-400, 400, allow_nan=False), min_size=1, max_size=30)
CLASSES = [1, 5, 10, 17, 30]


def levels_of(x: np.ndarray, lam: float, bits: np.ndarray) -> np.ndarray:
    levels = np.empty(x.size, np.int32)
    choices, paths = np.empty((x.size, 4), np.int32), np.empty(x.size, np.uint64)
    eights, costs = np.empty(STATES // 8, np.uint64), np.empty((4, STATES // 2), np.float32)
    ways = eights.view(np.uint8), eights
    quantise(x, lam, bits, levels, choices, paths, *ways, costs)
    return levels


def after(state: int, level: int) -> int:
    """The next state, as docs/reference/streams.md states it."""
    return (state // 2) ^ (58 * (state % 2)) ^ (17 * (level % 2))


def rate(bits: np.ndarray, q: int, k: int) -> float:
    top = bits.shape[1] - 1
    k = abs(k)
    return bits[q, k] if k <= top else bits[q, top] + (bits[0, top] - bits[0, top - 1]) * (k - top)


def point(q: int, k: int) -> int:
    return 2 * k - q * int(np.sign(k))


def objective(x: np.ndarray, levels: np.ndarray, lam: float, bits: np.ndarray) -> float:
    """What quantise() promises to make small, computed along the path."""
    state, total = 0, 0.0
    for value, k in zip(x.tolist(), levels.tolist(), strict=True):
        q = state % 2
        total += (value - point(q, k)) ** 2 + lam * rate(bits, q, k)
        state = after(state, k)
    return total


def rounded(x: np.ndarray) -> np.ndarray:
    """Each number to the nearest point of the quantiser whose turn it is."""
    state, levels = 0, []
    for value in x.tolist():
        q = state % 2
        low = int((abs(value) + q) / 2)
        k = min((abs(abs(value) - point(q, level)), level) for level in (0, low, low + 1))[1]
        levels.append(k if value >= 0 else -k)
        state = after(state, k)
    return np.array(levels, np.int32)


@given(COLUMN, st.sampled_from(CLASSES), st.sampled_from([0.0, LAMBDA, 2.0]))
def test_never_worse_than_rounding(values: list[float], number: int, lam: float) -> None:
    x, bits = np.array(values), level_bits(number)
    best = objective(x, levels_of(x, lam, bits), lam, bits)
    assert best <= objective(x, rounded(x), lam, bits) * (1 + 1e-6) + 1e-5


@pytest.mark.parametrize("seed", range(6))
def test_least_squares_is_optimal(seed: int) -> None:
    x = np.random.default_rng(seed).uniform(-7, 7, 5)
    bits = np.zeros((2, 65))
    signed = [[k if value >= 0 else -k for k in range(6)] for value in x]
    every = (np.array(path, np.int32) for path in itertools.product(*signed))
    best = min(objective(x, path, 0.0, bits) for path in every)
    assert objective(x, levels_of(x, 0.0, bits), 0.0, bits) == pytest.approx(best, rel=1e-6)


@given(COLUMN)
def test_error_is_bounded_and_signs_are_kept(values: list[float]) -> None:
    x = np.array(values)
    levels = levels_of(x, 0.0, np.zeros((2, 65)))
    back = np.empty(x.size, np.int32)
    reconstruct(levels, back)
    # A point on either side is offered in each quantiser, and no two points are more than 2 apart.
    assert np.abs(x - back).max() <= 2
    assert (levels * np.sign(x) >= 0).all()


@pytest.mark.parametrize("spread", [16.0, 200.0, 3e4])
def test_noise_on_a_gaussian_beats_plain_rounding(spread: float) -> None:
    x = np.random.default_rng(0).standard_normal((20_000, 1)) * spread
    noise = np.mean((quantise_block(x).values - x) ** 2)
    # Points 2 apart leave 4/12 = 0.333 by rounding; the trellis gains about 1.2 dB of 1.53.
    assert 0.18 < noise < 0.26


def test_every_state_has_two_ways_in_and_out() -> None:
    ways = [(after(state, 0), after(state, 1)) for state in range(STATES)]
    assert sorted(state for way in ways for state in way) == sorted([*range(STATES)] * 2)
    assert len({frozenset(way) for way in ways}) == STATES // 2


def test_reconstruction_by_hand() -> None:
    levels = np.array([1, 1, 1, -1, 0, -2, 3, 0, 1], np.int32)
    out = np.empty_like(levels)
    reconstruct(levels, out)
    # States 0 17 35 58 12 6 3 42 21; odd states subtract the sign.
    assert out.tolist() == [2, 1, 1, -2, 0, -4, 5, 0, 1]


@given(st.lists(st.integers(-(2**27), 2**27), max_size=40))
def test_the_levels_behind_integers_come_back(values: list[int]) -> None:
    levels = np.array(values, np.int32)
    integers, back = np.empty_like(levels), np.empty_like(levels)
    reconstruct(levels, integers)
    levels_behind(integers, back)
    assert np.array_equal(back, levels)


def least(x: np.ndarray, lam: float, bits: np.ndarray) -> float:
    """The least objective of any path, by dynamic programming in float64 over more levels."""
    cost = np.full(STATES, np.inf)
    cost[0] = 0
    states = np.arange(STATES)
    ways = np.array([[after(state, parity) for state in range(STATES)] for parity in (0, 1)])
    for value in np.abs(x).tolist():
        step = np.full((2, 2), np.inf)
        for q in (0, 1):
            low = int((value + q) / 2)
            for k in {0, 1, *range(max(low - 3, 0), low + 4)}:
                own = (value - point(q, k)) ** 2 + lam * rate(bits, q, k)
                step[q, k % 2] = min(step[q, k % 2], own)
        longer = np.full(STATES, np.inf)
        for parity in (0, 1):
            np.minimum.at(longer, ways[parity], cost + step[states % 2, parity])
        cost = longer
    return float(cost.min())


@pytest.mark.parametrize("lam", [0.0, 1e-9, 1e-4, LAMBDA, 2.0])
@pytest.mark.parametrize("number", [1, 8, 17, 18, 40, 81])
def test_costs_of_32_bits_find_the_best_path(number: int, lam: float) -> None:
    rng, bits = np.random.default_rng(number), level_bits(number)
    scale = 2.0 ** ((number - 5) / 4)
    x = np.concatenate([rng.standard_normal(300), rng.standard_t(1.5, 300)]) * scale
    x = np.clip(np.append(x, 2.0**26), -(2.0**27), 2.0**27)
    best = least(x, lam, bits)
    assert objective(x, levels_of(x, lam, bits), lam, bits) == pytest.approx(best, rel=1e-6)
