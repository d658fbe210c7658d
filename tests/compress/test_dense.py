"""Dense tensors at a price: what is chosen, what it takes, and that its error is measured."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hydraopt.codec import (
    DenseRecord,
    Given,
    StreamReader,
    blocks_of,
    encode_tensor,
    estimate_tensor,
    read_dense,
    share_tensor,
    tensors as dense,
    write_dense,
)
from hydraopt.codec.costs import LAST_CLASS, rate_of
from hydraopt.codec.stream import StreamWriter
from hydraopt.codec.tables import spread_of
from hydraopt.codec.tensors import EncodedTensor

RNG = np.random.default_rng(0)


def encode(xs: list[np.ndarray], price: float) -> EncodedTensor:
    return encode_all(xs, [1 / max(float(np.sum(x**2)), 1e-30) for x in xs], price)


def encode_all(xs: list[np.ndarray], weights: list[float], price: float) -> EncodedTensor:
    shared = share_tensor(lambda i: xs[i], xs[0].shape, weights, price)
    return encode_tensor(lambda i: xs[i], weights, price, shared, range(len(xs)))


def size(encoded: EncodedTensor) -> int:
    """Bits of everything, once it was read back."""
    shared, bits = StreamWriter(), 0
    write_dense(shared, DenseRecord(rest=encoded.common))
    for record in encoded.records:
        writer = StreamWriter()
        write_dense(writer, record)
        bits += 8 * len(writer.finish())
    return bits + (8 * len(shared.finish()) if encoded.common else 0)


def guessed_bits(x: np.ndarray, step: float) -> float:
    """Of normal numbers of this size: the rate lies between those of the classes around."""
    classes = np.arange(LAST_CLASS + 1)
    at = np.log2(max(math.sqrt(np.mean(x**2)) / step, 1e-9))
    rate = np.interp(at, np.log2(spread_of(classes)), rate_of(classes))
    return float(x.size * rate)


def relative(encoded: EncodedTensor) -> list[float]:
    pairs = zip(encoded.errors, encoded.energies, strict=True)
    return [math.sqrt(error / energy) for error, energy in pairs]


@pytest.mark.parametrize("price", [1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize("shape", [(9, 1), (300, 1), (200, 7), (64, 64)])
def test_errors_are_the_measured_ones(shape: tuple[int, int], price: float) -> None:
    xs = [RNG.standard_normal(shape) for _ in range(3)]
    encoded = encode(xs, price)
    for x, record, error, energy in zip(
        xs, encoded.records, encoded.errors, encoded.energies, strict=True
    ):
        writer = StreamWriter()
        write_dense(writer, record)
        again = read_dense(StreamReader(writer.finish()), shape, bool(encoded.common))
        reference = np.zeros(shape)
        if again.common:
            assert encoded.common is not None
            encoded.common.add_to(reference)
        assert np.sum((again.values(reference) - x) ** 2) == pytest.approx(error, rel=1e-9)
        assert energy == pytest.approx(float(np.sum(x**2)))


def test_errors_are_those_of_what_readers_give_back() -> None:
    x = RNG.standard_normal((200, 7)).astype(np.float16).astype(np.float64)
    weights = [1 / float(np.sum(x**2))]
    known = Given(free=True, back=lambda matrix: matrix.astype(np.float16).astype(np.float64))
    shared = share_tensor(lambda i: x, x.shape, weights, 1e-11, known)
    encoded = encode_tensor(lambda i: x, weights, 1e-11, shared, range(1))
    decoded = encoded.records[0].values(np.zeros(x.shape)).astype(np.float16)
    assert encoded.errors[0] == pytest.approx(float(np.sum((x - decoded) ** 2)), rel=1e-9)
    assert encoded.errors[0] < 0.9 * encode([x], 1e-11).errors[0]


def test_rate_and_distortion_are_near_the_bound_of_a_gaussian() -> None:
    x = RNG.standard_normal((4096, 16))
    for price in (3e-6, 3e-7, 3e-8):
        encoded = encode([x], price)
        error = relative(encoded)[0]
        # A Gaussian needs log2(1 / error) bits a number; trellis and coder take a tenth more.
        assert size(encoded) / x.size < math.log2(1 / error) + 0.16


def test_a_lower_price_buys_accuracy() -> None:
    x = RNG.standard_normal((500, 8))
    errors = [relative(encode([x], price))[0] for price in (1e-4, 1e-5, 1e-6, 1e-7)]
    assert errors == sorted(errors, reverse=True)


def test_the_step_is_where_a_bit_is_worth_its_price() -> None:
    """No other price does better in harm + price * bits."""
    x = RNG.standard_normal((2000, 10))
    price = 1e-6

    def cost(encoded: EncodedTensor) -> float:
        return relative(encoded)[0] ** 2 + price * size(encoded)

    own = cost(encode([x], price))
    assert own < min(cost(encode([x], price * factor)) for factor in (0.25, 4)) * 1.001


def test_heads_of_one_start_share_it() -> None:
    start = RNG.standard_normal((256, 64))
    near = [start + 0.1 * RNG.standard_normal(start.shape) for _ in range(4)]
    apart = [RNG.standard_normal(start.shape) for _ in range(2)]
    both = encode([*near, *apart], 1e-7)
    assert [record.common for record in both.records] == [True] * 4 + [False] * 2
    alone = sum(size(encode([x], 1e-7)) for x in (*near, *apart))
    assert size(both) < 0.76 * alone
    for x, error in zip((*near, *apart), relative(both), strict=True):
        assert error < 1.05 * relative(encode([x], 1e-7))[0]


@pytest.mark.parametrize("seed", range(40))
def test_those_are_told_as_differences_that_gain_most_by_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    step, numbers = 10 ** rng.uniform(-3, 0.5), int(rng.integers(1, 300))
    families = rng.standard_normal((3, numbers)) * rng.choice([0, 1, 3], (3, 1))
    x = families[rng.integers(3, size=int(rng.integers(2, 12)))]
    x = x + rng.choice([0, 0.001, 0.3, 2], (len(x), 1)) * rng.standard_normal(x.shape)
    alone = [guessed_bits(row, step) for row in x]
    best: list[int] = []
    most = 0.0
    for seed, one in enumerate(x):
        gains = [a - guessed_bits(row - one, step) for a, row in zip(alone, x, strict=True)]
        gains[seed] = alone[seed]  # what is told once, and all differences from it
        gain = sum(max(value, 0.0) for value in gains) - alone[seed]
        if gain > most and sum(value > 0 for value in gains) > 1:
            most, best = gain, [i for i, value in enumerate(gains) if value > 0]
    assert dense._alike(x, step) == best


def test_nothing_is_shared_by_tensors_that_are_not_alike() -> None:
    encoded = encode([RNG.standard_normal((64, 64)) for _ in range(5)], 1e-7)
    assert encoded.common is None


def test_what_is_low_rank_is_coded_as_parts() -> None:
    low = RNG.standard_normal((400, 6)) @ RNG.standard_normal((6, 300))
    rest = 0.05 * np.sqrt(6) * RNG.standard_normal(low.shape)
    encoded = encode([low + rest], 1e-6)
    record = encoded.records[0]
    assert record.parts is not None
    assert record.parts.count == 6
    whole = encode([RNG.standard_normal(low.shape)], 1e-6)
    assert whole.records[0].parts is None
    assert size(encoded) < 0.25 * size(whole)
    assert relative(encoded)[0] < relative(whole)[0]


def test_some_rows_cost_some_rows() -> None:
    x = np.zeros((20_000, 32))
    changed = np.sort(RNG.choice(20_000, 50, False))
    x[changed] = RNG.standard_normal((50, 32))
    encoded = encode([x], 1e-6)
    rest = encoded.records[0].rest
    assert rest is not None
    np.testing.assert_array_equal(rest.rows, changed)
    only = encode([x[changed]], 1e-6)
    assert size(encoded) < size(only) + 50 * 21
    assert relative(encoded)[0] == pytest.approx(relative(only)[0], rel=0.02)


def test_what_lies_on_one_side_of_zero_is_told_from_its_middle() -> None:
    x = 20 + 0.1 * RNG.standard_normal((600, 1))
    encoded = encode([x], 1e-8)
    rest = encoded.records[0].rest
    assert rest is not None
    assert rest.offsets is not None
    # Of 0.1, not of 20: without the offset it would take log2(200) bits more a number.
    spread = math.sqrt(encoded.errors[0] / x.size) / 0.1
    assert size(encoded) / x.size < math.log2(1 / spread) + 1


@pytest.mark.parametrize("x", [np.zeros((50, 3)), np.full((1, 1), 7.0), np.full((9, 1), 1e-9)])
def test_odd_tensors(x: np.ndarray) -> None:
    encoded = encode([x], 1e-6)
    assert encoded.errors[0] <= 1e-3 * max(encoded.energies[0], 1e-300)
    assert math.isfinite(size(encoded))


def test_weightless_tensors_are_left_out() -> None:
    x = RNG.standard_normal((20, 3))
    encoded = encode_all([x], [0.0], 1e-6)
    assert encoded.records == (DenseRecord(),)
    assert encoded.errors[0] == pytest.approx(encoded.energies[0])


def test_the_estimate_is_near_what_is_taken() -> None:
    start = RNG.standard_normal((256, 64))
    low = RNG.standard_normal((256, 3)) @ RNG.standard_normal((3, 64))
    sets = [
        [RNG.standard_normal((512, 8))],
        [start + 0.1 * RNG.standard_normal(start.shape) for _ in range(4)],
        [low + 0.02 * RNG.standard_normal(low.shape)],
    ]
    for xs in sets:
        weights = [1 / float(np.sum(x**2)) for x in xs]
        for price in (1e-5, 1e-6, 1e-7):
            guess = estimate_tensor(lambda i: xs[i], xs[0].shape, weights, price)  # noqa: B023
            assert guess == pytest.approx(size(encode(xs, price)), rel=0.15)


@pytest.mark.parametrize(
    ("shape", "tasks", "lengths"),
    [
        ((40, 24), 7, [7]),
        ((1 << 21, 1), 5, [2, 2, 1]),
        ((1 << 12, 1 << 10), 3, [1, 1, 1]),
        ((1 << 16, 1 << 16), 2, [1, 1]),
    ],
)
def test_blocks_hold_some_tasks_and_together_all(
    shape: tuple[int, int], tasks: int, lengths: list[int]
) -> None:
    blocks = blocks_of(shape, tasks)
    assert [len(block) for block in blocks] == lengths
    assert [i for block in blocks for i in block] == list(range(tasks))
