"""Streams: blocks of columns and side integers, in and out of bytes.

A block is a matrix (N, k) whose columns are quantised one after another, each with its spread
class; what the earlier columns of a row held tells the coder how lively the row is. ``x`` is in
steps throughout: what the integers mean in the units of a weight is the bundle's business (see
hydraopt.coding.records).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from hydraopt.coding.decoder import (
    decode_columns,
    decode_integer,
    decode_run,
    new_decoder,
    taken,
)
from hydraopt.coding.gaussian import level_bits
from hydraopt.coding.model import MOST_NUMBER, MOST_SIDE, MOST_SUM, new_model
from hydraopt.coding.rangeencoder import (
    POSITION,
    encode_columns,
    encode_integer,
    encode_run,
    finish,
    new_encoder,
    written,
)
from hydraopt.coding.spread import MAX_SPREAD, spread_classes, spread_of
from hydraopt.coding.trellis import levels_of, quantise, reconstruct
from hydraopt.compiled import LENT, njit
from hydraopt.errors import BundleFormatError, NumericalError, explain

__all__ = [
    "LAMBDA",
    "MOST_NUMBERS",
    "MOST_NUMBERS_OF_FILE",
    "Block",
    "CodingRoom",
    "StreamReader",
    "StreamWriter",
    "most_numbers",
    "quantise_block",
]

LAMBDA = 0.28
"""Squared steps per bit in the trellis search: 2 ln 2 times its mean squared error, where the
rate-distortion slope of the quantiser meets that of the budget (docs/decisions.md)."""


@functools.cache
def _bits() -> NDArray[np.float64]:
    """Return the costs of levels for each spread class, (classes, 2, levels)."""
    return np.stack([level_bits(float(s)) for s in spread_of(np.arange(MAX_SPREAD + 1))])


@njit(**LENT)
def _quantise_columns(
    x: NDArray[np.float64],
    spreads: NDArray[np.int64],
    lam: float,
    bits: NDArray[np.float64],
    levels: NDArray[np.int32],
    integers: NDArray[np.int32],
    choices: NDArray[np.int32],
    paths: NDArray[np.uint8],
) -> None:
    for j in range(x.shape[0]):
        quantise(x[j], lam, bits[spreads[j]], levels[j], choices, paths)
        reconstruct(levels[j], integers[j])


@dataclass(frozen=True)
class Block:
    """Quantised matrix (N, k): its integers and its decoded numbers.

    levels, integers: (k, N) int32, a row for each column of the matrix. spreads: (k,) classes.
    """

    levels: NDArray[np.int32]
    integers: NDArray[np.int32]
    spreads: NDArray[np.int64]

    @property
    def values(self) -> NDArray[np.float64]:
        """Decoded numbers (N, k), in steps."""
        return self.integers.T.astype(np.float64)

    @functools.cached_property
    def largest(self) -> int:
        """Largest absolute integer."""
        return max(int(self.integers.max(initial=0)), -int(self.integers.min(initial=0)))

    def keep(self, columns: NDArray[np.bool_] | slice) -> Block:
        """Only the marked columns."""
        return Block(self.levels[columns], self.integers[columns], self.spreads[columns])

    def check(self, adapter: str | None = None, module: str | None = None) -> None:
        """Raise NumericalError, naming adapter and module, for a block that no reader accepts.

        A block must not have too many numbers, nor numbers or sums of rows that exceed 32 bits.
        """
        columns, count = self.levels.shape
        got = expected = None
        if self.levels.size > MOST_NUMBERS:
            got, expected = f"{count} x {columns} numbers in a block", f"at most {MOST_NUMBERS}"
        else:
            if self.largest > MOST_NUMBER:
                got, expected = f"a number of {self.largest} steps", f"at most {MOST_NUMBER}"
            elif self.largest * (columns - 1) >= MOST_SUM:
                rows = np.abs(self.integers[:-1].astype(np.int64)).sum(axis=0)
                if int(rows.max(initial=0)) >= MOST_SUM:
                    got, expected = f"a row of {rows.max()} steps in sum", f"below {MOST_SUM}"
        if got is not None:
            raise NumericalError(
                explain(
                    "a module is too large to be coded",
                    adapter=adapter,
                    module=module,
                    got=got,
                    expected=expected,
                    do="Ask for a smaller size, or use --lossless",
                )
            )


def quantise_block(x: NDArray[np.float64], lam: float = LAMBDA) -> Block:
    """Quantise ``x`` (N, k), in steps, column by column; spreads follow from the columns' RMS."""
    count, columns = x.shape
    by_column = np.ascontiguousarray(x.T, dtype=np.float64)
    rms = np.sqrt(np.einsum("jn,jn->j", by_column, by_column) / max(count, 1))
    spreads = spread_classes(rms)
    levels = np.empty((columns, count), np.int32)
    integers = np.empty((columns, count), np.int32)
    scratch = np.empty((count, 4), np.int32), np.empty(count, np.uint8)
    _quantise_columns(by_column, spreads, lam, _bits(), levels, integers, *scratch)
    return Block(levels, integers, spreads)


_RESERVED = 1 << 16
"""Numbers that are coded at once, as far as a column allows; a number takes 16 bytes at most."""
MOST_NUMBERS = 1 << 25
"""Most numbers of a block, which bounds what a damaged or hostile stream can make us allocate."""


MOST_NUMBERS_OF_FILE: Final = 1 << 20, 128
"""Numbers that the streams of a file may stand for, and how many more for each of their bytes. The
examples and forty adapters of a real model, at 1 % of fp16, hold 7 numbers to a byte. Streams that
claim many more are meant to fill the memory; a number takes about 16 bytes of it."""


def most_numbers(size: int) -> int:
    """Return the largest number of values that streams of ``size`` bytes may stand for.

    It counts all streams of a file together, multiplied out, and is part of the format.
    """
    return MOST_NUMBERS_OF_FILE[0] + MOST_NUMBERS_OF_FILE[1] * size


class CodingRoom:
    """Bytes that a coder writes to; one room may serve many streams, one after the other."""

    def __init__(self) -> None:
        self.out = np.zeros(1 << 12, np.uint8)

    def reserve(self, size: int) -> None:
        """Make it that large; what is in it stays."""
        if size > self.out.size:
            grown = np.zeros(max(size, 2 * self.out.size), np.uint8)
            grown[: self.out.size] = self.out
            self.out = grown


class StreamWriter:
    """Writer of one stream without chunks; :class:`hydraopt.coding.chunks.ChunkWriter` has chunks.

    Not thread-safe; separate streams may be written side by side.
    """

    def __init__(self, room: CodingRoom | None = None) -> None:
        self._room = room or CodingRoom()
        self.restart()

    def restart(self) -> None:
        """Begin anew: an empty stream, and contexts that have learned nothing."""
        self._state = new_encoder()
        self._model = new_model()

    @property
    def _out(self) -> NDArray[np.uint8]:
        return self._room.out

    def _reserve(self, extra: int) -> None:
        # The pending bytes of a carry chain are written later, so they need room as well.
        self._room.reserve(written(self._state) + extra)

    @property
    def size(self) -> int:
        """Bytes so far, to within the few that the coder still holds."""
        return written(self._state)

    def integer(self, kind: int, value: int) -> None:
        """Append a side integer of one of the kinds [0, 8); |value| < 2^30."""
        if abs(value) >= MOST_SIDE:
            raise ValueError(f"side integer out of range: {value}")
        self._reserve(64)
        # int(): numba looks an IntEnum up anew at every call, which costs more than the coding.
        encode_integer(self._state, self._out, self._model, int(kind), value)

    def run(self, kind: int, values: NDArray[np.int64]) -> None:
        """Append integers of one kind, each as its difference to the one before."""
        if values.size and int(np.abs(values).max()) >= 1 << 29:
            raise ValueError(f"side integer out of range: {values}")
        self._reserve(64 * values.size + 64)
        encode_run(self._state, self._out, self._model, int(kind), values)

    def block(self, block: Block, kind: int) -> None:
        """Append the spread classes, as differences coded under ``kind``, and the columns.

        Raises NumericalError for what no reader takes, see :meth:`Block.check`.
        """
        block.check()
        self.levels(block.levels, block.spreads, kind)

    def levels(self, levels: NDArray[np.int32], spreads: NDArray[np.int64], kind: int) -> None:
        """Append the levels (k, N) and spread classes (k,) of a block that was checked."""
        self.run(kind, spreads)
        rows = np.zeros(levels.shape[1], np.int64)
        some = max(_RESERVED // max(rows.size, 1), 1)
        for j in range(0, spreads.size, some):
            part = levels[j : j + some]
            self._reserve(16 * part.size + 64)
            encode_columns(self._state, self._out, self._model, part, spreads[j : j + some], rows)

    def drained(self) -> bytes:
        """Take the bytes that no carry can change any more out of the room."""
        end = int(self._state[POSITION])
        self._state[POSITION] = 0
        return self._out[:end].tobytes()

    def finish(self) -> bytes:
        """Close the stream and return its bytes, those that were drained left out."""
        self._reserve(64)
        end = finish(self._state, self._out)
        return self._out[:end].tobytes()


class StreamReader:
    """Reader of one chunk, in writing order; see :class:`hydraopt.coding.chunks.ChunkReader`.

    spend: told how many numbers a record stands for before they are decoded;
    raises if they are too many.
    """

    def __init__(
        self,
        data: bytes | memoryview | NDArray[np.uint8],
        spend: Callable[[int], None] | None = None,
    ) -> None:
        self._spend = spend
        self.restart(data)

    def restart(self, data: bytes | memoryview | NDArray[np.uint8]) -> None:
        """Begin with other bytes, and contexts that have learned nothing."""
        self._data = np.frombuffer(data, np.uint8)
        self._state = new_decoder(self._data)
        self._model = new_model()

    def spend(self, numbers: int) -> None:
        """Raise BundleFormatError if the stream may not hold this many more numbers."""
        if self._spend is not None:
            self._spend(numbers)

    def integer(self, kind: int, low: int, high: int, what: str) -> int:
        """Read a side integer; raise BundleFormatError unless it is in [low, high]."""
        value = int(decode_integer(self._state, self._data, self._model, int(kind)))
        if not low <= value <= high or abs(value) >= MOST_SIDE:
            self.damaged(f"{what} is {value}, expected {low} to {high}")
        return value

    def run(self, kind: int, count: int, low: int, high: int, what: str) -> NDArray[np.int64]:
        """Read ``count`` integers of a :meth:`StreamWriter.run`; raises as :meth:`integer`."""
        values = np.empty(count, np.int64)
        if not decode_run(self._state, self._data, self._model, int(kind), values, low, high):
            self.damaged(f"{what} is {values.min()} or {values.max()}, expected {low} to {high}")
        return values

    def block(self, count: int, columns: int, kind: int) -> NDArray[np.int32]:
        """Read a block of integers (count, columns); mirrors :meth:`StreamWriter.block`.

        Raises BundleFormatError if the stream has been read past its end, before it allocates.
        """
        return self._columns(count, columns, kind)[1].T

    def coded(self, count: int, columns: int, kind: int) -> Block:
        """Read a block as a writer takes it; writing it again gives the same bytes."""
        spreads, integers = self._columns(count, columns, kind)
        levels = np.empty_like(integers)
        for row, out in zip(integers, levels, strict=True):
            levels_of(row, out)
        return Block(levels, integers, spreads)

    def _columns(
        self, count: int, columns: int, kind: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Spread classes and integers (columns, count) of the next block."""
        if taken(self._state) > self._data.size + 64:
            self.damaged(f"its end was passed with {count * columns} numbers still to come")
        if count * columns > MOST_NUMBERS:
            self.damaged(f"a block claims {count} x {columns} numbers")
        spreads = self.run(kind, columns, 0, MAX_SPREAD, "a spread class")
        rows = np.zeros(count, np.int64)
        integers = np.empty((columns, count), np.int32)
        inside = decode_columns(self._state, self._data, self._model, integers, spreads, rows)
        if not inside:
            self.damaged("a number or the sum of a row is beyond what a block may hold")
        return spreads, integers

    def end_record(self) -> None:
        """Mark the end of a record; a stream without chunks ignores it."""

    def close(self) -> None:
        """Raise BundleFormatError unless the stream ends here."""
        if self.position != self._data.size:
            self.damaged(f"{self._data.size} bytes, of which the records take {self.position}")

    @property
    def position(self) -> int:
        """Bytes taken from the stream so far."""
        return min(taken(self._state), self._data.size)

    def damaged(self, what: str) -> NoReturn:
        """Raise BundleFormatError about this stream."""
        raise BundleFormatError(
            explain("damaged stream", got=what, do="Fetch the bundle again or restore a copy")
        )
