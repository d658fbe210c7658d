"""Scripts of records: the calls that a stream's writer will get, as bytes.

Records are made module by module and coded task by task, mostly in different processes. A script
holds what coding needs and no more: levels in the fewest bytes that hold them, not what they stand
for. Scripts are read by the version that wrote them, and are no part of the bundle's format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from hydraopt.coding.stream import NORMAL, Block, StreamWriter
from hydraopt.coding.tables import Kind
from hydraopt.errors import BundleFormatError, explain

__all__ = ["SHARED", "Scribe", "apart", "play", "scripts_in"]

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
