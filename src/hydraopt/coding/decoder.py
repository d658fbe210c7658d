"""Decoder of a chunk: its bytes, the coder's state, and the calls of the compiled loops."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from hydraopt.coding import ransdecoder
from hydraopt.coding.product import add_products
from hydraopt.coding.ransdecoder import decode_block, decode_numbers
from hydraopt.coding.tables import FREQUENCIES, LEAST_STATE, STARTS, symbols_of_slots
from hydraopt.kernels import Lent

__all__ = ["ChunkDecoder", "prepare"]


def prepare() -> None:
    """Load the machine code, which otherwise the first call does.

    Call it in one thread before several decode at the same time.
    """
    for loop in (decode_block, decode_numbers, add_products):
        loop.load()
    _tables()


@cache
def _tables() -> tuple[Lent, Lent]:
    """Return the symbol of each slot, and frequency and first slot of each symbol."""
    slots = (FREQUENCIES | STARTS << 16).astype(np.uint32)
    return Lent(symbols_of_slots()), Lent(slots)


class ChunkDecoder:
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
        self._stream = (Lent(self._state), Lent(self._words), *_tables())

    @property
    def position(self) -> int:
        return min(8 + 2 * int(self._state[2]), self._size)

    @property
    def passed(self) -> bool:
        return int(self._state[2]) > self._words.size + ransdecoder.BEYOND

    @property
    def ended(self) -> bool:
        end = [LEAST_STATE, LEAST_STATE, self._words.size]
        return self._state.tolist() == end and self.sound

    def numbers(self, table: int, shift: int, count: int) -> NDArray[np.int64] | None:
        """Decode side integers; None if one is too large."""
        values = np.empty(count, np.int64)
        return values if decode_numbers(*self._stream, table, shift, values) else None

    def block(
        self, columns: int, count: int, shape: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]] | None:
        """Decode spread classes and integers (columns, count); None for what no writer writes."""
        integers, spreads = np.zeros((columns, count), np.int32), np.empty(columns, np.int64)
        inside = decode_block(*self._stream, shape, integers, spreads)
        return (spreads, integers) if inside else None
