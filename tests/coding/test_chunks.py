"""Streams in chunks: each decodes alone, and no table that lies is believed."""

from __future__ import annotations

import tracemalloc
import zlib
from typing import NoReturn

import numpy as np
import pytest
from hypothesis import given, strategies as st

from hydraopt.codec import Aside, ChunkReader, ChunkWriter, CodingRoom, StreamReader
from hydraopt.codec.chunks import CHUNK_BYTES, Chunk, pack_table, read_table
from hydraopt.codec.stream import Block, StreamWriter, quantise_block
from hydraopt.codec.tables import Kind
from hydraopt.errors import BundleFormatError, NumericalError
from tests.raising import raises

SHAPE = 30, 4


def blocks(count: int) -> list[Block]:
    rng = np.random.default_rng(count)
    return [quantise_block(rng.standard_normal(SHAPE) * 5) for _ in range(count)]


def written(records: list[Block], most: int = CHUNK_BYTES) -> bytes:
    writer = ChunkWriter(most)
    for block in records:
        writer.block(block)
        writer.end_record(block.levels.size)
    return writer.finish()


def read_all(data: bytes, count: int) -> None:
    reader = ChunkReader(data, count)
    for _ in range(count):
        reader.spend(SHAPE[0] * SHAPE[1])
        reader.block(*SHAPE)
        reader.end_record()


def never(what: str) -> NoReturn:
    raise AssertionError(what)


def refuse(what: str) -> NoReturn:
    raise BundleFormatError(what)


@given(st.integers(0, 12), st.sampled_from([0, 1, 60, 200, 1 << 16]))
def test_what_is_written_comes_back(count: int, most: int) -> None:
    records = blocks(count)
    data = written(records, most)
    told: list[int] = []
    reader = ChunkReader(data, count, told.append)
    for block in records:
        reader.spend(block.levels.size)
        assert np.array_equal(reader.block(*SHAPE), block.integers.T)
        reader.end_record()
    reader.close()
    assert reader.position == len(data)
    # Told once and in advance, by the table.
    assert told == [sum(block.levels.size for block in records)]


@given(st.integers(1, 6), st.integers(0, 12), st.sampled_from([0, 1, 60, 200, 1 << 16]))
def test_streams_written_in_turns_are_those_written_at_once(
    streams: int, count: int, most: int
) -> None:
    aside, room, records = Aside(), CodingRoom(), blocks(count)
    records[1:1] = [quantise_block(np.zeros(SHAPE))] * (3 if count else 0)
    writers = [ChunkWriter(most, aside) for _ in range(streams)]
    alone = [ChunkWriter(most) for _ in range(streams)]
    for i, block in enumerate(records):
        for shift, (writer, other) in enumerate(zip(writers, alone, strict=True)):
            if i < shift:
                continue
            other.block(block)
            other.end_record(block.levels.size)
            with writer.turn(room):
                writer.block(block)
                writer.end_record(block.levels.size)
            assert writer.size == other.size
    for writer, other in zip(writers, alone, strict=True):
        with writer.turn(room):
            assert writer.finish() == other.finish()


def test_a_stream_that_waits_for_its_turn_holds_no_bytes() -> None:
    aside, room = Aside(), CodingRoom()
    tracemalloc.start()
    try:
        writers = [ChunkWriter(aside=aside) for _ in range(200)]
        for block in blocks(3):
            for writer in writers:
                with writer.turn(room):
                    writer.block(block)
                    writer.end_record(block.levels.size)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    # Of what is put aside, two bytes a number and more, some MB may lie in memory.
    steps = len(writers) * sum(2 * block.levels.size + 100 for block in blocks(3))
    assert held - min(steps, 8 << 20) < len(writers) * 3000


def test_a_stream_of_no_records_is_no_bytes() -> None:
    assert ChunkWriter().finish() == b""
    ChunkReader(b"", 0).close()


def test_a_chunk_is_what_a_stream_of_its_records_would_be() -> None:
    records = blocks(5)
    data = written(records, 0)
    chunks, start = read_table(memoryview(data), 5, never)
    assert len(chunks) == 5
    for chunk, block in zip(chunks, records, strict=True):
        alone = StreamWriter()
        alone.block(block)
        assert data[start : start + chunk.size] == alone.finish()
        start += chunk.size
    assert start == len(data)


@pytest.mark.parametrize("most", [100, 1000])
def test_a_chunk_is_closed_as_soon_as_it_is_large_enough(most: int) -> None:
    chunks, _ = read_table(memoryview(written(blocks(60), most)), 60, never)
    assert len(chunks) > 1
    for chunk in chunks[:-1]:
        assert most <= chunk.size + 4
        assert chunk.size < most + 130


def test_a_chunk_is_closed_before_its_numbers_leave_32_bits() -> None:
    writer = ChunkWriter()
    for numbers in ((1 << 31) - 1, (1 << 31) - 1, 5):
        writer.integer(Kind.COUNT, 1)
        writer.end_record(numbers)
    chunks, _ = read_table(memoryview(writer.finish()), 3, never)
    assert [chunk.numbers for chunk in chunks] == [(1 << 32) - 2, 5]
    with raises(NumericalError, got="2147483648 numbers", expected="below 2147483648"):
        writer.end_record(1 << 31)


ROWS = st.tuples(
    st.integers(1, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 300), st.integers(0, 9)
)


@given(st.lists(ROWS, min_size=1, max_size=5))
def test_a_table_comes_back(rows: list[tuple[int, int, int, int]]) -> None:
    chunks = [Chunk(*row) for row in rows]
    table = pack_table(chunks)
    data = table + bytes(sum(chunk.size for chunk in chunks))
    again, start = read_table(memoryview(data), sum(x.records for x in chunks), never)
    assert (again, start) == (chunks, len(table))


def test_golden_bytes() -> None:
    table = pack_table([Chunk(1, 300, 2, 0x01020304), Chunk(200, 0, 0, 7)])
    body = bytes.fromhex("0201ac020204030201c801000007000000")
    assert table == body + zlib.crc32(body).to_bytes(4, "little")


@given(st.binary(max_size=40), st.integers(0, 3))
def test_any_bytes_give_a_table_or_a_typed_error(data: bytes, records: int) -> None:
    try:
        chunks, start = read_table(memoryview(data), records, refuse)
    except BundleFormatError:
        return
    assert sum(x.size for x in chunks) + start == len(data)


@pytest.mark.parametrize("place", range(0, 200, 7))
def test_any_flipped_bit_is_noticed(place: int) -> None:
    data = bytearray(written(blocks(4), 60))
    data[place % len(data)] ^= 1 << place % 8
    with pytest.raises(BundleFormatError):
        read_all(bytes(data), 4)


def test_a_part_of_a_stream_cannot_be_left_or_passed() -> None:
    reader = ChunkReader(written(blocks(2)), 2)
    reader.spend(SHAPE[0] * SHAPE[1])
    reader.block(*SHAPE)
    with raises(BundleFormatError, got="it has more records than are read"):
        reader.close()
    with pytest.raises(BundleFormatError):
        reader.spend(121)
    done = ChunkReader(written([]), 0)
    with raises(BundleFormatError, got="it has fewer records than are read"):
        done.end_record()
    with raises(
        BundleFormatError, got="a chunk holds more than the 0 numbers that its table states"
    ):
        done.spend(1)


# --- bounds -------------------------------------------------------------------------------------


def block_of(integers: list[list[int]]) -> Block:
    """A block of even integers in a class where high bits are cheap."""
    array = np.array(integers, np.int32)
    levels = array // 2
    return Block(levels, array, np.full(array.shape[0], 92, np.int64))


MOST = 1 << 27


@pytest.mark.parametrize(
    ("integers", "facts"),
    [
        ([[MOST + 2]], {"got": "a number of 134217730 steps"}),
        ([[2], [-MOST - 2]], {"expected": "at most 134217728"}),
    ],
)
def test_the_writer_refuses_what_leaves_32_bits(
    integers: list[list[int]], facts: dict[str, object]
) -> None:
    with raises(NumericalError, **facts):
        StreamWriter().block(block_of(integers))
    with raises(NumericalError, adapter="fr", module="h.q"):
        block_of(integers).check("fr", "h.q")


@pytest.mark.parametrize("integers", [[[MOST]], [[-MOST]], [[MOST]] * 9])
def test_the_largest_numbers_come_back(integers: list[list[int]]) -> None:
    # Runs of equal parity keep the trellis in state 0, where levels are halves.
    block = block_of(integers)
    writer = StreamWriter()
    writer.block(block)
    got = StreamReader(writer.finish()).block(1, len(integers))
    assert got.tolist() == [[column[0] for column in integers]]


@pytest.mark.parametrize("integers", [[[MOST + 2]], [[2], [-MOST - 2]]])
def test_the_reader_refuses_what_leaves_32_bits(
    integers: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Block, "check", lambda *_: None)
    writer = StreamWriter()
    writer.block(block_of(integers))
    data = writer.finish()
    with raises(BundleFormatError, got="a class or a number is beyond what a block may hold"):
        StreamReader(data).block(1, len(integers))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_step_between_integers_has_a_bound(sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, most = StreamWriter(), sign * ((1 << 30) - 1)
    for value in (most, most, -most):
        writer.integer(Kind.EXPONENT, value)
    monkeypatch.setattr("hydraopt.codec.stream.MOST_SIDE", 1 << 31)
    writer.integer(Kind.EXPONENT, sign << 30)
    data = writer.finish()
    far = 1 << 40
    reader = StreamReader(data)
    assert reader.run(Kind.EXPONENT, 3, -far, far, "a row").tolist()[-1] == most
    reader = StreamReader(data)
    with pytest.raises(BundleFormatError):
        reader.run(Kind.EXPONENT, 4, -far, far, "a row")
