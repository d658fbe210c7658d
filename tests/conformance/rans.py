"""Code chunks number by number, also what no writer of a stream writes."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

from hydraopt.coding.chunks import Chunk, pack_table
from hydraopt.coding.tables import FREQUENCIES, Kind

_ESCAPE = 29


class Coder:
    """Coder of one chunk, as streams.md describes the decoder."""

    def __init__(self) -> None:
        self._numbers: list[list[tuple[int, int, int]]] = []
        self._first = dict.fromkeys(Kind, 0)

    def number(self, table: int, width: int, value: int) -> None:
        """Append a number of a table with ``width`` raw bits."""
        value += (1 << width) >> 1
        v, low = value >> width, value & (1 << width) - 1
        row = [int(x) for x in FREQUENCIES[table]]
        symbol = v + 14 if abs(v) <= 14 and row[v + 14] else _ESCAPE
        steps = [(0, row[symbol], sum(row[:symbol]))]
        if symbol == _ESCAPE:
            z = 2 * v if v > 0 else 1 - 2 * v
            e = z.bit_length() - 1
            steps += [*_raw(5, e), *_raw(e, z - (1 << e))]
        self._numbers.append([*steps, *_raw(width, low)])

    def side(self, kind: Kind, value: int) -> None:
        """Append a side integer."""
        self.number(kind.table, kind.shift, value - kind.offset)

    def list(self, kind: Kind, values: Sequence[int]) -> None:
        """Append a list of side integers."""
        before = self._first[kind]
        for value in values:
            self.side(kind, value - before)
            before = value
        if values:
            self._first[kind] = values[0]

    def block(self, columns: Iterable[tuple[int, int, Sequence[int]]], shape: int = 0) -> None:
        """Append columns of class, shape and levels; shape: the block's."""
        before = None
        for spread, own, levels in columns:
            first = before is None
            self.side(Kind.FIRST_CLASS if first else Kind.NEXT_CLASS, spread - (before or 0))
            before = spread
            if spread:
                self.side(Kind(Kind.AFTER_NORMAL + shape), own)
                shape = own
                self._levels(spread, own, levels)

    def _levels(self, spread: int, shape: int, levels: Sequence[int]) -> None:
        state = 0
        for level in levels:
            if spread <= 17:
                self.number(38 * shape + 2 * (spread - 1) + state % 2, 0, level)
            else:
                table = 38 * shape + 34 + (spread - 18) % 4
                self.number(table, (spread - 14) // 4, level)
            state = (state // 2) ^ (58 * (state % 2)) ^ (17 * (level % 2))

    def finish(self) -> bytes:
        """Return the bytes of the chunk."""
        states, words = [1 << 16, 1 << 16], []
        for i in range(len(self._numbers) - 1, -1, -1):
            x = states[i % 2]
            for width, f, start in reversed(self._numbers[i]):
                if x >= f << 20 if f else x >= 1 << 32 - width:
                    words.append(x & 0xFFFF)
                    x >>= 16
                x = (x // f << 12) + start + x % f if f else x << width | start
            states[i % 2] = x
        joined = b"".join(word.to_bytes(2, "little") for word in reversed(words))
        return b"".join(x.to_bytes(4, "little") for x in states) + joined


def _raw(width: int, bits: int) -> list[tuple[int, int, int]]:
    if width > 16:
        return [*_raw(width - 16, bits >> 16), *_raw(16, bits & 0xFFFF)]
    return [(width, 0, bits)] if width else []


def stream(*chunks: tuple[int, int, bytes]) -> bytes:
    """Return a stream of chunks, each with its records, its numbers and its bytes."""
    table = [Chunk(records, numbers, len(x), zlib.crc32(x)) for records, numbers, x in chunks]
    return pack_table(table) + b"".join(x for _, _, x in chunks)
