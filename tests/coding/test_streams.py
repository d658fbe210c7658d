"""The entropy coder and its streams: exact, equal on every machine, safe when damaged."""

from __future__ import annotations

import contextlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, strategies as st

from hydraopt.codec import BasisRecord, StreamReader, loops, write_basis
from hydraopt.codec.stream import HEAVY, NORMAL, Block, StreamWriter, quantise_block
from hydraopt.codec.tables import MAX_SPREAD, Kind, spread_classes
from hydraopt.errors import BundleFormatError, NumericalError
from tests.raising import raises

SIGNED = st.integers(-(2**29), 2**29)
KINDS = st.sampled_from(Kind)


def block_of(levels: list[list[int]], spreads: list[int]) -> Block:
    """A block with these levels, whatever their spread classes promise."""
    array = np.array(levels, np.int32).reshape(len(spreads), 0 if not levels else -1)
    integers = np.empty_like(array)
    for row, out in zip(array, integers, strict=True):
        loops.reconstruct(row, out)
    return Block(array, integers, np.array(spreads, np.int64))


def round_trip(block: Block, shape: int = NORMAL) -> np.ndarray:
    writer = StreamWriter()
    writer.block(block, shape)
    data = writer.finish()
    reader = StreamReader(data)
    got = reader.block(block.levels.shape[1], len(block.spreads), shape)
    reader.close()
    assert reader.position == len(data)
    return got


@pytest.mark.parametrize("spread", range(MAX_SPREAD + 1))
def test_every_spread_class_round_trips(spread: int) -> None:
    rng = np.random.default_rng(spread)
    size = 2.0 ** ((spread - 16) / 4)
    # A Cauchy column has far outliers.
    x = rng.standard_normal((60, 4)) * size * np.exp(rng.standard_normal((60, 1)))
    x[:, 3] = np.clip(rng.standard_cauchy(60), -1e4, 1e4) * size
    block = quantise_block(x)
    assert abs(int(np.median(block.spreads)) - spread) <= 12
    assert np.array_equal(round_trip(block), block.integers.T)
    assert np.array_equal(round_trip(block, HEAVY), block.integers.T)


@given(
    st.lists(st.lists(st.integers(-(2**26), 2**26), min_size=5, max_size=5), max_size=4),
    st.lists(st.integers(0, MAX_SPREAD), min_size=4, max_size=4),
)
def test_any_levels_round_trip_under_any_class(levels: list[list[int]], spreads: list[int]) -> None:
    # The class is only an expectation: numbers far from it cost bits, never correctness.
    block = block_of(levels, spreads[: len(levels)])
    assert np.array_equal(round_trip(block), block.integers.T)


@given(st.lists(st.tuples(KINDS, SIGNED)))
def test_side_integers_round_trip(values: list[tuple[Kind, int]]) -> None:
    writer = StreamWriter()
    for kind, value in values:
        writer.integer(kind, value)
    reader = StreamReader(writer.finish())
    assert [reader.integer(kind, -(2**30), 2**30, "x") for kind, _ in values] == [
        value for _, value in values
    ]


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_writer_refuses_exactly_what_readers_refuse(kind: Kind, sign: int) -> None:
    writer = StreamWriter()
    with pytest.raises(ValueError, match="range"):
        writer.integer(kind, kind.offset + sign * 2**30)
    largest = kind.offset + sign * (2**30 - 1)
    writer.integer(kind, largest)
    assert StreamReader(writer.finish()).integer(kind, largest, largest, "x") == largest


@pytest.mark.parametrize("shape", [(0, 0), (5, 0), (0, 3), (1, 1), (7, 2)])
def test_empty_and_zero_blocks(shape: tuple[int, int]) -> None:
    block = quantise_block(np.zeros(shape))
    assert block.spreads.tolist() == [0] * shape[1]
    got = round_trip(block)
    assert got.shape == shape
    assert not got.any()


def test_zeros_cost_nearly_nothing() -> None:
    writer = StreamWriter()
    writer.block(quantise_block(np.zeros((10_000, 4))))
    assert len(writer.finish()) < 20


@given(st.lists(st.tuples(st.sampled_from([Kind.COUNT, Kind.EXPONENT]), st.lists(SIGNED))))
def test_lists_come_back(lists: list[tuple[Kind, list[int]]]) -> None:
    writer = StreamWriter()
    for kind, values in lists:
        writer.run(kind, np.array(values, np.int64) // 2)
    reader = StreamReader(writer.finish())
    for kind, values in lists:
        got = reader.run(kind, len(values), -(2**30), 2**30, "x")
        assert got.tolist() == [value // 2 for value in values]
    reader.close()


@given(st.floats(0, 1e9, allow_nan=False))
def test_spread_class_is_monotone_and_bounded(value: float) -> None:
    found, more = spread_classes(np.array([value, value * 1.5]))
    assert 0 <= found <= MAX_SPREAD
    assert found <= more
    if 0.07 < value < 2**18:
        assert abs(2 ** ((found - 16) / 4) / value - 1) < 0.1


# --- the same everywhere ------------------------------------------------------------------------

GOLDEN_LEVELS = [
    [0, 1, -1, 2, 0, 0, -3, 17],
    [40, -1, 0, 0, 5, -70, 2, 1],
    [3001, -2, 1, -99999, 0, 7, 8, -9],
    [0, 0, 0, 0, 0, 0, 0, 0],
]
GOLDEN_SPREADS = [14, 26, 61, 0]
GOLDEN_SIDE = [
    (Kind.COUNT, 3),
    (Kind.MODE, 0),
    (Kind.EXPONENT, -4711),
    (Kind.NEXT_CLASS, 14),
    (Kind.NEXT_CLASS, -15),
    (Kind.FIRST_CLASS, 16),
    (Kind.COUNT, 2**30 - 1),
]
GOLDEN_BYTES = (
    "c0c7e84a0050d5019bf4dfd9e477feffeaff01bef8b1f7df055802caf9af0652"
    "7bcca7f12703c6e8b974b7e5e8906190199a6c79a604"
)


def golden_stream() -> tuple[bytes, Block]:
    writer = StreamWriter()
    for kind, value in GOLDEN_SIDE:
        writer.integer(kind, value)
    block = block_of(GOLDEN_LEVELS, GOLDEN_SPREADS)
    writer.block(block)
    return writer.finish(), block


def read_golden(data: bytes) -> tuple[list[int], list[list[int]]]:
    reader = StreamReader(data)
    side = [reader.integer(kind, -(2**31), 2**31, "x") for kind, _ in GOLDEN_SIDE]
    return side, reader.block(8, 4).tolist()


def test_golden_bytes() -> None:
    data, block = golden_stream()
    assert data.hex() == GOLDEN_BYTES
    side, values = read_golden(bytes.fromhex(GOLDEN_BYTES))
    assert side == [value for _, value in GOLDEN_SIDE]
    assert values == block.integers.T.tolist()
    # Written out once, so that reconstruct() itself is held to something.
    assert values[0] == [0, 80, 6002, 0]
    assert values[3] == [3, 0, -199998, 0]


def far_stream() -> bytes:
    """Levels of 31 bits, which no writer writes and no 32 bits hold as integers."""
    writer = StreamWriter()
    writer.levels(np.full((1, 3), 2**31 - 1, np.int32), np.array([MAX_SPREAD]), 0)
    return writer.finish()


def test_levels_that_no_writer_writes_are_refused() -> None:
    with pytest.raises(BundleFormatError):
        StreamReader(far_stream()).block(3, 1)


@pytest.mark.parametrize(("number", "shape"), [(-1, 0), (82, 0), (5, -1), (5, 3)])
def test_a_class_or_shape_that_no_writer_writes_is_refused(number: int, shape: int) -> None:
    writer = StreamWriter()
    writer.integer(Kind.FIRST_CLASS, number)
    writer.integer(Kind.AFTER_NORMAL, shape)
    with raises(BundleFormatError, got="a class or a number is beyond what a block may hold"):
        StreamReader(writer.finish()).block(3, 1)


# --- damage -------------------------------------------------------------------------------------


def read_all(data: bytes) -> None:
    read_from(StreamReader(data))


def read_from(reader: StreamReader) -> None:
    reader.integer(Kind.COUNT, 0, 100, "a count")
    reader.block(50, 4)
    reader.integer(Kind.EXPONENT, -6400, 6400, "an exponent")
    reader.block(30, 4)
    reader.close()


def drain(data: bytes, count: int, columns: int) -> None:
    """Read blocks and integers until the reader refuses."""
    reader = StreamReader(data)
    for _ in range(100_000):
        reader.integer(Kind.COUNT, -(2**31), 2**31, "x")
        reader.block(count, columns)


def whole_stream() -> bytes:
    rng = np.random.default_rng(1)
    writer = StreamWriter()
    writer.integer(Kind.COUNT, 4)
    writer.block(quantise_block(rng.standard_normal((50, 4)) * 5))
    writer.integer(Kind.EXPONENT, -77)
    writer.block(quantise_block(rng.standard_normal((30, 4)) * 900))
    return writer.finish()


@given(st.data())
def test_damaged_streams_give_values_or_a_typed_error(data: st.DataObject) -> None:
    stream = bytearray(whole_stream())
    for place in data.draw(st.lists(st.integers(0, len(stream) - 1), max_size=6)):
        stream[place] ^= data.draw(st.integers(1, 255))
    stream = stream[: data.draw(st.integers(0, len(stream)))]
    with contextlib.suppress(BundleFormatError):
        read_all(bytes(stream))


@given(st.binary(max_size=300))
def test_random_bytes_give_values_or_a_typed_error(data: bytes) -> None:
    with contextlib.suppress(BundleFormatError):
        read_all(data)


@pytest.mark.parametrize("data", [b"", b"\xff" * 200, b"\x00" + b"\xff" * 200])
def test_ones_without_end_do_not_hang(data: bytes) -> None:
    with pytest.raises(BundleFormatError):
        drain(data, 100, 10)


def test_a_huge_block_is_refused_before_it_is_allocated() -> None:
    reader = StreamReader(whole_stream())
    tracemalloc.start()
    try:
        with raises(BundleFormatError, got="a block claims 1048576 x 1048576 numbers"):
            reader.block(1 << 20, 1 << 20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_reading_on_past_the_end_is_refused() -> None:
    with pytest.raises(BundleFormatError):
        drain(whole_stream(), 50, 4)
    # Past its end a stream reads as zeros, which decode to something; that has to end as well.
    reader = StreamReader(b"")
    for _ in range(100):
        reader.integer(Kind.COUNT, -20, 0, "x")
    with raises(BundleFormatError, got="its end was passed with 0 numbers still to come"):
        reader.block(50, 0)


@pytest.mark.parametrize("change", ["one word more", "one byte more", "one word less", "a state"])
def test_a_stream_ends_where_its_last_number_does(change: str) -> None:
    data = whole_stream()
    data = {
        "one word more": data + b"\0\0",
        "one byte more": data + b"\0",
        "one word less": data[:-2],
        "a state": bytes([data[0] ^ 128, *data[1:]]),
    }[change]
    reader = StreamReader(data)
    with pytest.raises(BundleFormatError):
        read_from(reader)


def test_an_integer_outside_its_range_says_what_it_is() -> None:
    writer = StreamWriter()
    writer.integer(Kind.COUNT, 41)
    with raises(BundleFormatError, got="the number of parts is 41, expected 0 to 40"):
        StreamReader(writer.finish()).integer(Kind.COUNT, 0, 40, "the number of parts")


def test_the_writer_refuses_what_no_reader_takes() -> None:
    wide = np.broadcast_to(np.zeros(1, np.int32), (2, 1 << 25))
    with raises(NumericalError, got="33554432 x 2 numbers in a block"):
        StreamWriter().block(Block(wide, wide, np.zeros(2, np.int64)))


@pytest.mark.parametrize(
    "number", [2.0**27 + 4, -(2.0**31), 2.0**32, 2.0**60, 1e308, np.inf, np.nan]
)
def test_a_number_that_no_block_holds_is_refused(number: float) -> None:
    with pytest.raises(NumericalError):
        quantise_block(np.array([[1.0, 0.0], [number, 1.0], [2.0, 3.0]])).check()


@pytest.mark.parametrize("exponent", [6401, -6401])
def test_a_coefficient_that_no_reader_takes_is_refused(exponent: int) -> None:
    record = BasisRecord(quantise_block(np.ones((4, 1))), np.array([exponent], np.int64))
    with raises(NumericalError, got="a coefficient of 2^+-200"):
        write_basis(StreamWriter(), record)
