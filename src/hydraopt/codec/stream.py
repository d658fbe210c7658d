"""Streams: blocks of columns and side integers, in and out of bytes.

A block is a matrix (N, k) whose columns are quantised one after another, each with its spread
class. ``x`` is in steps throughout: what the integers mean in the units of a weight is the bundle's
business (see hydraopt.codec.records).
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from hydraopt.codec import loops
from hydraopt.codec.tables import (
    COST_BITS,
    FIRST_SPREAD,
    FREQUENCIES,
    LEAST_STATE,
    MAX_SPREAD,
    MOST_NUMBER,
    MOST_SIDE,
    PRICES,
    STARTS,
    Kind,
    level_bits,
    spread_classes,
    symbols_of_slots,
)
from hydraopt.errors import BundleFormatError, NumericalError, explain

_STATES: Final = struct.Struct("<II")  # both states, ahead of the words
_COUNT, _PRICE = 0, 1
"""Indices of a meter: steps in the buffer; price of all steps so far, in 1/256 bit."""
_MOST_STEPS: Final = 9
"""Most steps of a number: a symbol, and two for each of four runs of raw bits."""
_BEYOND: Final = 64
"""Number of words past the end of a chunk at which decoding stops."""
LAMBDA = 0.27
"""Squared steps per bit in the trellis search: 2 ln 2 times its mean squared error, where the
rate-distortion slope of the quantiser meets that of the budget (docs/decisions.md)."""
_COARSE: Final = 13
"""Columns of this spread class and below have a lower price of bits: most of their numbers become
zero, and the others are scaled up to undo that, with their error."""
_COARSE_PRICE: Final = 0.9
"""Price of a bit in these columns, relative to LAMBDA."""


@functools.cache
def _bits() -> NDArray[np.float64]:
    """Return the costs of levels for each spread class, (classes, 2, levels)."""
    return np.stack([level_bits(max(s - FIRST_SPREAD + 1, 1)) for s in range(MAX_SPREAD + 1)])


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
        """Return the block of the marked columns."""
        return Block(self.levels[columns], self.integers[columns], self.spreads[columns])

    def check(self, adapter: str | None = None, module: str | None = None) -> None:
        """Raise NumericalError, naming adapter and module, for a block that no reader accepts.

        A block must not have too many numbers, nor numbers that exceed the format's largest.
        """
        columns, count = self.levels.shape
        got = expected = None
        if self.levels.size > MOST_NUMBERS:
            got, expected = f"{count} x {columns} numbers in a block", f"at most {MOST_NUMBERS}"
        elif self.largest > MOST_NUMBER:
            got, expected = f"a number of {self.largest} steps", f"at most {MOST_NUMBER}"
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


_FAR: Final = 2.0**29
"""Steps that 32 bits hold and :meth:`Block.check` refuses."""


def quantise_block(x: NDArray[np.float64]) -> Block:
    """Quantise ``x`` (N, k), in steps, column by column; spreads follow from the columns' RMS.

    :meth:`Block.check` refuses the result if a number is too large, infinite or NaN.
    """
    count, columns = x.shape
    by_column = np.ascontiguousarray(x.T, dtype=np.float64)
    squares = np.einsum("jn,jn->j", by_column, by_column)
    if not squares.max(initial=0) < _FAR**2:
        by_column = np.clip(np.nan_to_num(by_column, nan=_FAR), -_FAR, _FAR)
        squares = np.einsum("jn,jn->j", by_column, by_column)
    rms = np.sqrt(squares / max(count, 1))
    spreads = spread_classes(rms)
    levels = np.empty((columns, count), np.int32)
    integers = np.empty((columns, count), np.int32)
    scratch = np.empty((count, 4), np.int32), np.empty((count, 8), np.uint8)
    prices = np.where(spreads <= _COARSE, _COARSE_PRICE * LAMBDA, LAMBDA)
    loops.quantise(by_column, spreads, prices, _bits(), levels, integers, *scratch)
    return Block(levels, integers, spreads)


_RESERVED: Final = 1 << 16
"""Approximate number of values that are turned into steps at once; at least one column."""
NORMAL, HEAVY = 0, 1
"""Shapes that the first column of a block may be expected to have: see StreamWriter.block."""
MOST_NUMBERS = 1 << 25
"""Most numbers of a block, which bounds the memory that a damaged or hostile stream can ask for."""
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
    """Steps of the coder; one room may serve many streams, one after the other."""

    def __init__(self) -> None:
        self.steps = np.zeros(1 << 12, np.uint16)

    def reserve(self, size: int) -> None:
        """Make room for ``size`` steps; the steps that it holds stay."""
        if size > self.steps.size:
            grown = np.zeros(max(size, 2 * self.steps.size), np.uint16)
            grown[: self.steps.size] = self.steps
            self.steps = grown


class StreamWriter:
    """Writer of one stream without chunks; :class:`hydraopt.codec.chunks.ChunkWriter` has chunks.

    Not thread-safe; separate streams may be written side by side.
    """

    def __init__(self) -> None:
        self._room = CodingRoom()
        self.restart()

    def restart(self) -> None:
        """Begin anew: an empty stream."""
        self._meter = np.zeros(2, np.int64)
        self._first = dict.fromkeys(Kind, 0)

    def _reserve(self, numbers: int) -> None:
        self._room.reserve(int(self._meter[_COUNT]) + _MOST_STEPS * numbers)

    @property
    def size(self) -> int:
        """Bytes so far, to within a few."""
        return _STATES.size + (int(self._meter[_PRICE]) >> COST_BITS + 3)

    def integer(self, kind: Kind, value: int) -> None:
        """Append a side integer. Raises ValueError unless |value - kind.offset| < 2^30."""
        self._emit(kind, np.array([value], np.int64))

    def run(self, kind: Kind, values: NDArray[np.int64]) -> None:
        """Append integers of one kind, each as its difference to the one before.

        The first one is written as its difference to the first one of the run of that kind before
        it, 0 for the first run of a stream.
        """
        if values.size:
            self._emit(kind, np.diff(values, prepend=self._first[kind]))
            self._first[kind] = int(values[0])

    def _emit(self, kind: Kind, values: NDArray[np.int64]) -> None:
        values = values - kind.offset
        if int(np.abs(values).max()) >= MOST_SIDE:
            raise ValueError(f"side integer out of range: {values + kind.offset}")
        self._reserve(values.size)
        steps, meter = self._room.steps, self._meter
        loops.emit_numbers(steps, meter, FREQUENCIES, PRICES, kind.table, kind.shift, values)

    def block(self, block: Block, shape: int = NORMAL) -> None:
        """Append the columns, each with its class and shape.

        shape: expected shape of the first column, NORMAL or HEAVY. Another shape takes some bits
        more. Raises NumericalError for what no reader takes, see
        :meth:`Block.check`.
        """
        block.check()
        self.levels(block.levels, block.spreads, shape)

    def levels(self, levels: NDArray[np.int32], spreads: NDArray[np.int64], shape: int) -> None:
        """Append the levels (k, N) and spread classes (k,) of a block that was checked."""
        before = np.array([-1, shape], np.int64)
        numbers = np.where(levels.any(axis=1), np.maximum(spreads - FIRST_SPREAD + 1, 1), 0)
        some = max(_RESERVED // max(levels.shape[1], 1), 1)
        for j in range(0, spreads.size, some):
            part = levels[j : j + some]
            self._reserve(part.size + 2 * len(part))
            steps, meter, classes = self._room.steps, self._meter, numbers[j : j + some]
            loops.emit_block(steps, meter, FREQUENCIES, PRICES, part, classes, before)

    def drained(self) -> bytes:
        """Take the steps out of the room; :meth:`finish` needs them."""
        end = int(self._meter[_COUNT])
        self._meter[_COUNT] = 0
        return self._room.steps[:end].tobytes()

    def finish(self, drained: Iterable[bytes] = ()) -> bytes:
        """Close the stream and return its bytes.

        drained: all that was taken out of the room, the last piece first.
        """
        states = np.full(2, LEAST_STATE, np.uint64)
        words = []
        for piece in itertools.chain([self.drained()], drained):
            steps = np.frombuffer(piece, np.uint16)
            out = np.empty(steps.size, np.uint16)
            words.append(out[: loops.encode(steps, FREQUENCIES, STARTS, states, out)])
        coded = np.concatenate(words)[::-1].astype("<u2").tobytes()
        return _STATES.pack(*states.tolist()) + coded


@functools.cache
def _tables() -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Return the symbol of each slot, and frequency and first slot of each symbol."""
    slots = (FREQUENCIES | STARTS << 16).astype(np.uint32)
    return symbols_of_slots(), slots


class _Decoder:
    """Decoder of one chunk. It reads zeros past the end of the bytes.

    sound: whether it begins as a chunk does. passed: whether it has read far past the end. ended:
    whether it stands where the encoder started. position: bytes taken.
    """

    def __init__(self, data: bytes) -> None:
        whole = data.ljust(8, b"\0")
        self._size = len(data)
        states = np.frombuffer(whole[:8], "<u4").astype(np.int64)
        self.sound = len(data) % 2 == 0 and bool(states.min() >= LEAST_STATE)
        self._words = np.frombuffer(whole[8 : len(whole) & ~1], "<u2").astype(np.uint16)
        self._state = np.array([*states, 0], np.int64)
        self._stream = (self._state, self._words, *_tables())

    @property
    def position(self) -> int:
        return min(8 + 2 * int(self._state[2]), self._size)

    @property
    def passed(self) -> bool:
        return int(self._state[2]) > self._words.size + _BEYOND

    @property
    def ended(self) -> bool:
        end = [LEAST_STATE, LEAST_STATE, self._words.size]
        return self._state.tolist() == end and self.sound

    def numbers(self, table: int, shift: int, count: int) -> NDArray[np.int64] | None:
        """Decode side integers; None if one is too large."""
        values = np.empty(count, np.int64)
        return values if loops.decode_numbers(*self._stream, table, shift, values) else None

    def block(
        self, columns: int, count: int, shape: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]] | None:
        """Decode spread classes and integers (columns, count); None for what no writer writes."""
        integers, spreads = np.empty((columns, count), np.int32), np.empty(columns, np.int64)
        inside = loops.decode_block(*self._stream, shape, integers, spreads)
        return (spreads, integers) if inside else None


class StreamReader:
    """Reader of one chunk, in writing order; see :class:`hydraopt.codec.chunks.ChunkReader`.

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
        """Begin with other bytes."""
        self._decoder = _Decoder(bytes(data))
        self._first = dict.fromkeys(Kind, 0)

    def spend(self, numbers: int) -> None:
        """Raise BundleFormatError if the stream may not hold this many more numbers."""
        if self._spend is not None:
            self._spend(numbers)

    def integer(self, kind: Kind, low: int, high: int, what: str) -> int:
        """Read a side integer; raise BundleFormatError unless it is in [low, high]."""
        value = int(self._numbers(kind, 1, what)[0])
        if not low <= value <= high:
            self.damaged(f"{what} is {value}, expected {low} to {high}")
        return value

    def run(self, kind: Kind, count: int, low: int, high: int, what: str) -> NDArray[np.int64]:
        """Read ``count`` integers of a :meth:`StreamWriter.run`; raises as :meth:`integer`."""
        if count == 0:
            return np.zeros(0, np.int64)
        values = self._first[kind] + np.cumsum(self._numbers(kind, count, what))
        if values.min() < low or values.max() > high:
            self.damaged(f"{what} is {values.min()} or {values.max()}, expected {low} to {high}")
        self._first[kind] = int(values[0])
        return values

    def _numbers(self, kind: Kind, count: int, what: str) -> NDArray[np.int64]:
        values = self._decoder.numbers(kind.table, kind.shift, count)
        if values is None:
            self.damaged(f"{what} is beyond what any may be")
        return values + kind.offset

    def block(self, count: int, columns: int, shape: int = NORMAL) -> NDArray[np.int32]:
        """Read a block of integers (count, columns); mirrors :meth:`StreamWriter.block`.

        Raises BundleFormatError if the stream has been read past its end, before it allocates.
        """
        return self._columns(count, columns, shape)[1].T

    def coded(self, count: int, columns: int, shape: int = NORMAL) -> Block:
        """Read a block as a writer takes it; writing it again gives the same bytes."""
        spreads, integers = self._columns(count, columns, shape)
        # No trellis is needed: an odd integer is of Q1, an even one other than zero of Q0.
        levels = np.sign(integers)
        levels *= (np.abs(integers) >> 1) + (integers & 1)
        return Block(levels, integers, spreads)

    def _columns(
        self, count: int, columns: int, shape: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return spread classes (columns,) and integers (columns, count) of the next block."""
        if self._decoder.passed:
            self.damaged(f"its end was passed with {count * columns} numbers still to come")
        if count * columns > MOST_NUMBERS:
            self.damaged(f"a block claims {count} x {columns} numbers")
        found = self._decoder.block(columns, count, shape)
        if found is None:
            self.damaged("a class or a number is beyond what a block may hold")
        return found

    def end_record(self) -> None:
        """Mark the end of a record; a stream without chunks ignores it."""

    def close(self) -> None:
        """Raise BundleFormatError unless the stream ends here."""
        if not self._decoder.ended:
            self.damaged("it does not end where its last record ends")

    @property
    def position(self) -> int:
        """Bytes taken from the stream so far."""
        return self._decoder.position

    def damaged(self, what: str) -> NoReturn:
        """Raise BundleFormatError about this stream."""
        raise BundleFormatError(
            explain("damaged stream", got=what, do="Fetch the bundle again or restore a copy")
        )
