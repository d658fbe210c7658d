"""Streams in chunks: runs of whole records, each of which is checked and decoded alone.

Records are made module by module and coded task by task, mostly in different processes. A script
holds what coding needs and no more: levels in the fewest bytes that hold them, not what they stand
for. Scripts are read by the version that wrote them, and are no part of the bundle's format.

A stream is a table of its chunks, then the chunks. The table says how many records, numbers and
bytes each chunk has, so that work is refused before it begins, and any chunk can be read without
those before it. docs/reference/streams.md is the normative text.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from hydraopt.codec.aside import Aside, Place
from hydraopt.codec.stream import NORMAL, Block, CodingRoom, StreamReader, StreamWriter
from hydraopt.codec.tables import Kind
from hydraopt.errors import BundleFormatError, NumericalError, explain

SHARED: Final = 0xFFFFFFFF
"""Stands for the shared stream, where scripts say which content's they are."""
_RECORD: Final = struct.Struct("<IQI")  # whose; numbers; bytes of the steps
_STEP: Final = struct.Struct("<BBqII")
"""What; kind or shape; an integer, or the bytes of a level; columns, rows."""
_INTEGER, _RUN, _LEVELS = range(3)
_LEVEL_BYTES: Final = (1, 2, 4)


class Scribe(StreamWriter):
    """Writer that keeps a record as a script."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def integer(self, kind: Kind, value: int) -> None:
        self._pieces.append(_STEP.pack(_INTEGER, kind, value, 0, 0))

    def run(self, kind: Kind, values: NDArray[np.int64]) -> None:
        self._pieces.append(_STEP.pack(_RUN, kind, 0, values.size, 0))
        self._pieces.append(np.ascontiguousarray(values, "<i8").tobytes())

    def block(self, block: Block, shape: int = NORMAL) -> None:
        block.check()
        levels, most = block.levels, (block.largest + 1) // 2  # of a level, see levels_of
        size = next(size for size in _LEVEL_BYTES if most < 1 << 8 * size - 1)
        self._pieces.append(_STEP.pack(_LEVELS, shape, size, *levels.shape))
        self._pieces.append(np.ascontiguousarray(block.spreads, "<i8").tobytes())
        self._pieces.append(levels.astype(f"<i{size}").tobytes())

    def script(self, whose: int, numbers: int) -> bytes:
        """Return the record written since the last call, of a content or SHARED."""
        steps = b"".join(self._pieces)
        self._pieces.clear()
        return _RECORD.pack(whose, numbers, len(steps)) + steps


def apart(data: bytes) -> Iterator[tuple[int, memoryview]]:
    """Yield (whose, script) of concatenated scripts.

    Raises BundleFormatError for a script that is cut off.
    """
    whole, at = memoryview(data), 0
    while at < len(whole):
        if at + _RECORD.size > len(whole):
            _damaged("cut off")
        whose, _, size = _RECORD.unpack_from(whole, at)
        end = at + _RECORD.size + size
        if end > len(whole):
            _damaged("cut off")
        yield whose, whole[at:end]
        at = end


def scripts_in(data: bytes) -> Iterator[tuple[int, int, memoryview]]:
    """Yield (whose, numbers, steps) of each script; raises as :func:`apart`."""
    for _, script in apart(data):
        whose, numbers, _ = _RECORD.unpack_from(script)
        yield whose, numbers, script[_RECORD.size :]


def play(steps: memoryview, writer: StreamWriter) -> None:
    """Write the steps of a script to a stream. Raises BundleFormatError for damage."""
    at = 0

    def take(count: int, dtype: str) -> NDArray[np.generic]:
        nonlocal at
        size = count * np.dtype(dtype).itemsize
        if at + size > len(steps):
            _damaged("cut off")
        values = np.frombuffer(steps[at : at + size], dtype)
        at += size
        return values

    while at < len(steps):
        if at + _STEP.size > len(steps):
            _damaged("cut off")
        what, kind, value, columns, count = _STEP.unpack_from(steps, at)
        at += _STEP.size
        if what == _INTEGER:
            writer.integer(Kind(kind), value)
        elif what == _RUN:
            writer.run(Kind(kind), take(columns, "<i8").astype(np.int64))
        elif what == _LEVELS and value in _LEVEL_BYTES:
            spreads = take(columns, "<i8").astype(np.int64)
            levels = take(columns * count, f"<i{value}").astype(np.int32)
            writer.levels(levels.reshape(columns, count), spreads, kind)
        else:
            _damaged(f"step {what} of {value}")


def _damaged(what: str) -> NoReturn:
    raise BundleFormatError(explain("a script is damaged", got=what, do="Run again without it"))


CHUNK_BYTES: Final = 1 << 14
"""A chunk is closed as soon as it has so many bytes; chunks then cost at most 0.1 % of a bundle."""
_MOST_NUMBERS: Final = 1 << 31
"""A chunk is closed as soon as it has so many numbers, and no record has more, so that the counts
of the table are below 2^32."""
_VARINT_BYTES: Final = 5


class Chunk(NamedTuple):
    """Row of the table of chunks.

    numbers: values that the records stand for.  crc: zlib's crc32 of the bytes.
    """

    records: int
    numbers: int
    size: int
    crc: int


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def pack_table(chunks: Sequence[Chunk]) -> bytes:
    """Return the bytes of the table; nothing for no chunks."""
    if not chunks:
        return b""
    out = bytearray(_varint(len(chunks)))
    for x in chunks:
        out += _varint(x.records) + _varint(x.numbers) + _varint(x.size)
        out += x.crc.to_bytes(4, "little")
    return bytes(out) + zlib.crc32(out).to_bytes(4, "little")


class _Table:
    """Cursor over the bytes of a table."""

    def __init__(self, data: memoryview, damaged: Callable[[str], NoReturn]) -> None:
        self._data = data
        self._damaged = damaged
        self.position = 0

    def take(self, size: int) -> memoryview:
        piece = self._data[self.position : self.position + size]
        if len(piece) < size:
            self._damaged("its table of chunks is cut off")
        self.position += size
        return piece

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def varint(self, least: int, what: str) -> int:
        """Read an integer below 2^32, in as few bytes as it needs."""
        value = 0
        for place in range(_VARINT_BYTES):
            byte = self.take(1)[0]
            value |= (byte & 127) << 7 * place
            if byte < 128:
                break
        shortest = byte < 128 and (byte > 0 or place == 0)
        if not shortest or not least <= value < 1 << 32:
            self._damaged(f"its table of chunks states {what} that no writer writes")
        return value


def read_table(
    data: memoryview, records: int, damaged: Callable[[str], NoReturn]
) -> tuple[list[Chunk], int]:
    """Return the chunks of a stream of this many records, and the bytes of the table.

    damaged: raises for a table that is not that of ``data``, which is the whole stream.
    """
    if not data and not records:
        return [], 0
    table = _Table(data, damaged)
    chunks = []
    for _ in range(table.varint(1, "a number of chunks")):
        counts = table.varint(1, "records"), table.varint(0, "numbers"), table.varint(0, "bytes")
        chunks.append(Chunk(*counts, table.u32()))
    crc = zlib.crc32(data[: table.position])
    if table.u32() != crc:
        damaged("its table of chunks does not fit its checksum")
    stated = sum(x.records for x in chunks)
    if stated != records:
        damaged(f"its chunks have {stated} records, expected {records}")
    rest = len(data) - table.position
    size = sum(x.size for x in chunks)
    if size != rest:
        damaged(f"its chunks have {size} bytes, expected {rest}")
    return chunks, table.position


class ChunkWriter(StreamWriter):
    """Writes one stream. Whoever writes records says where each ends. Not thread-safe.

    most: bytes from which on a chunk is closed; 0 makes a chunk of each record. aside: where the
    stream lies between turns, so that thousands of streams are written side by side in the memory
    of one; see :meth:`turn`.
    """

    def __init__(self, most: int = CHUNK_BYTES, aside: Aside | None = None) -> None:
        super().__init__()
        self._most, self._aside = most, aside
        self._chunks: list[Chunk] = []
        self._open: list[Place] = []
        self._closed: list[bytes | Place] = []
        self._bytes = self._records = self._numbers = 0

    @property
    def size(self) -> int:
        """Bytes so far, without the table, to within a few."""
        return self._bytes + super().size

    @contextmanager
    def turn(self, room: CodingRoom) -> Iterator[None]:
        """Write records, or finish, in a room that streams share; put everything aside at the end.

        A stream with ``aside`` is written in no other way.
        """
        aside = self._aside
        assert aside is not None
        self._room = room
        yield
        if steps := self.drained():
            self._open.append(aside.put(steps))

    def end_record(self, numbers: int) -> None:
        """End a record, which is everything written since the last call.

        numbers: count of numbers that the record stands for.

        Raises NumericalError for more numbers than the table can state.
        """
        if numbers >= _MOST_NUMBERS:
            raise NumericalError(
                explain(
                    "a tensor is too large to be coded",
                    got=f"{numbers} numbers",
                    expected=f"below {_MOST_NUMBERS}",
                    do="Use --lossless",
                )
            )
        self._records += 1
        self._numbers += numbers
        if super().size >= self._most or self._numbers >= _MOST_NUMBERS:
            self._close()

    def _close(self) -> None:
        data = super().finish(map(self._read, reversed(self._open)))
        crc = zlib.crc32(data)
        self._chunks.append(Chunk(self._records, self._numbers, len(data), crc))
        self._closed.append(data if self._aside is None else self._aside.put(data))
        self._bytes += len(data)
        self._open.clear()
        self._records = self._numbers = 0
        self.restart()

    def _read(self, piece: bytes | Place) -> bytes:
        if isinstance(piece, bytes):
            return piece
        assert self._aside is not None
        return self._aside.read(piece)

    def finish(self, drained: Iterable[bytes] = ()) -> bytes:
        """Close the stream and return its bytes; those of no records are none."""
        assert not drained  # whoever drains a stream with chunks is its own turn
        if self._records:
            self._close()
        return b"".join([pack_table(self._chunks), *map(self._read, self._closed)])


class ChunkReader(StreamReader):
    """Reads one stream, chunk after chunk, in the order in which it was written.

    records: how many the stream has, as its file says. spend: told how many numbers the table
    states, before any is decoded. Raises BundleFormatError.
    """

    def __init__(
        self,
        data: bytes,
        records: int,
        spend: Callable[[int], None] | None = None,
    ) -> None:
        whole = memoryview(data)
        chunks, start = read_table(whole, records, self.damaged)
        if spend is not None:
            spend(sum(x.numbers for x in chunks))
        super().__init__(b"")
        self._begin(whole, chunks, start)

    def _begin(self, whole: memoryview, chunks: Sequence[Chunk], start: int) -> None:
        self._whole, self._start = whole, start
        self._chunks = list(chunks[::-1])
        self._left = self._counted = 0
        self._open()

    @property
    def numbers(self) -> int:
        """Count of numbers in the unread records, and in the other records of the current chunk."""
        return sum(x.numbers for x in self._chunks)

    def apart(self) -> Iterator[tuple[int, ChunkReader]]:
        """Yield the records and a reader of each chunk, from the open one on.

        The readers are independent, so each may belong to another thread. Do not use this reader
        again.
        """
        start = self._start
        for chunk in reversed(self._chunks):
            reader = ChunkReader(b"", 0)
            reader._begin(self._whole, [chunk], start)
            start += chunk.size
            yield chunk.records, reader

    def _open(self) -> None:
        """Begin with the next chunk; after the last one nothing can be read."""
        if not self._chunks:
            self.restart(b"")
            return
        chunk = self._chunks[-1]
        data = self._whole[self._start : self._start + chunk.size]
        if zlib.crc32(data) != chunk.crc:
            self.damaged("a chunk does not fit its checksum")
        self._left, self._counted = chunk.records, 0
        self.restart(data)
        if not self._decoder.sound:
            self.damaged("a chunk has an odd number of bytes or starts with a small state")

    def spend(self, numbers: int) -> None:
        """Raise BundleFormatError if the chunk has fewer numbers left, by its table."""
        self._counted += numbers
        stated = self._chunks[-1].numbers if self._chunks else 0
        if self._counted > stated:
            self.damaged(f"a chunk holds more than the {stated} numbers that its table states")

    def end_record(self) -> None:
        """Mark the end of a record; the chunk must end with its last record.

        Raises BundleFormatError if it does not.
        """
        if not self._chunks:
            self.damaged("it has fewer records than are read")
        self._left -= 1
        if self._left:
            return
        chunk = self._chunks[-1]
        if self._counted != chunk.numbers:
            self.damaged(f"a chunk holds {self._counted} numbers, its table states {chunk.numbers}")
        if not self._decoder.ended:
            self.damaged(f"a chunk of {chunk.size} bytes does not end where its last record does")
        self._chunks.pop()
        self._start += chunk.size
        self._open()

    def close(self) -> None:
        """Raise BundleFormatError unless all records were read."""
        if self._chunks:
            self.damaged("it has more records than are read")

    @property
    def position(self) -> int:
        """Bytes taken from the stream so far, the table included."""
        return self._start + super().position
