"""The trellis quantiser: its objective, its noise, its paths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from hydraopt.codec import StreamReader, loops
from hydraopt.codec.stream import LAMBDA, Block, StreamWriter, quantise_block
from hydraopt.codec.tables import level_bits

STATES = 64
COLUMN = st.lists(st.floats(-400, 400, allow_nan=False), min_size=1, max_size=30)
CLASSES = [1, 5, 10, 17, 30]


def levels_of(x: np.ndarray, lam: float, bits: np.ndarray) -> np.ndarray:
    levels, integers = np.empty((2, 1, x.size), np.int32)
    scratch = np.empty((x.size, 4), np.int32), np.empty((x.size, 8), np.uint8)
    first = np.zeros(1, np.int64)
    loops.quantise(x[None], first, np.array([lam]), bits[None], levels, integers, *scratch)
    back = np.empty(x.size, np.int32)
    loops.reconstruct(levels[0], back)
    assert np.array_equal(back, integers[0])
    return levels[0]


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


@given(COLUMN)
def test_error_is_bounded_and_signs_are_kept(values: list[float]) -> None:
    x = np.array(values)
    levels = levels_of(x, 0.0, np.zeros((2, 65)))
    back = np.empty(x.size, np.int32)
    loops.reconstruct(levels, back)
    # A point on either side is offered in each quantiser, and no two points are more than 2 apart.
    assert np.abs(x - back).max() <= 2
    assert (levels * np.sign(x) >= 0).all()


@pytest.mark.parametrize("spread", [16.0, 200.0, 3e4])
def test_noise_on_a_gaussian_beats_plain_rounding(spread: float) -> None:
    x = np.random.default_rng(0).standard_normal((20_000, 1)) * spread
    noise = np.mean((quantise_block(x).values - x) ** 2)
    # Points 2 apart leave 4/12 = 0.333 by rounding; the trellis gains about 1.2 dB of 1.53.
    assert 0.18 < noise < 0.26


def test_reconstruction_by_hand() -> None:
    levels = np.array([1, 1, 1, -1, 0, -2, 3, 0, 1], np.int32)
    out = np.empty_like(levels)
    loops.reconstruct(levels, out)
    # States 0 17 35 58 12 6 3 42 21; odd states subtract the sign.
    assert out.tolist() == [2, 1, 1, -2, 0, -4, 5, 0, 1]


@given(st.lists(st.integers(-(2**26), 2**26), max_size=40))
def test_the_levels_behind_integers_come_back(values: list[int]) -> None:
    levels = np.array([values], np.int32)
    integers = np.empty_like(levels)
    loops.reconstruct(levels[0], integers[0])
    writer = StreamWriter()
    writer.block(Block(levels, integers, np.array([40])))
    back = StreamReader(writer.finish()).coded(len(values), 1)
    assert np.array_equal(back.levels, levels)


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


# At a price far above LAMBDA, levels further away than the encoder's candidates may pay, because
# the code of large levels becomes a bit longer at once.
@given(COLUMN, st.sampled_from(CLASSES), st.sampled_from([0.0, LAMBDA]))
def test_no_path_is_better(values: list[float], number: int, lam: float) -> None:
    x, bits = np.array(values), level_bits(number)
    found = objective(x, levels_of(x, lam, bits), lam, bits)
    assert found <= least(x, lam, bits) * (1 + 1e-6) + 1e-5
