"""Bundles whose numbers a reader refuses: grounds 6 and 17 to 29 of format.md, section 8."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.hostile.forge import deflated
from hydraopt.coding.tables import FREQUENCIES, Kind
from tests.conformance.forging import (
    Case,
    Verdict,
    broken,
    carried,
    damaged,
    forged,
    modules,
    together,
)
from tests.conformance.rans import Coder, stream
from tests.conformance.sound import basis, columns, errors, record, with_bases

Found = Iterator[tuple[str, bytes]]
Write = Callable[[Coder], None]
_ROOM = 14, 13
"""Numbers of a part of each module of the golden bundle ``linear``: m + n."""


def cases() -> Iterator[Case]:
    """Yield all cases."""
    for ground, found in ((17, _entries()), (18, _configs()), (20, _carried())):
        for name, data in found:
            yield f"r{ground}-{name}", data, damaged(ground)
    for ground, found in (
        (6, _blobs()), (19, _numbers()), (21, _tables()), (22, _crcs()), (23, _counts()),
        (24, _ends()), (25, _sides()), (26, _blocks()), (27, _exponents()), (28, _modules()),
        (29, _tensors()),
    ):  # fmt: skip
        for name, data in found:
            yield f"r{ground:02}-{name}", data, broken(ground)
    yield "r29-shared-parts", _shared_parts(), Verdict("damaged", "ok", "R29")


def _entries() -> Found:
    def many(whole: dict[str, Any], _: Any) -> None:
        names = [f"{i:03}" for i in range(400)]
        whole["modules"] = {"path": names, "m": {"=": 2}, "n": {"=": 2}}
        row = {key: x if "=" in x else {"=": x[0]} for key, x in whole["tasks"].items()}
        whole["tasks"] = {**row, "name": names, "errors": {"=": errors(400)}}

    yield "entries", forged("linear", many)


def _configs() -> Found:
    def many(whole: dict[str, Any], _: Any) -> None:
        names = [f"{i:03}" for i in range(400)]
        row = {key: x if "=" in x else {"=": x[0]} for key, x in whole["tasks"].items()}
        whole["tasks"] = {**row, "name": names, "config": [*range(400)]}
        whole["configs"][0]["x"] = "x" * 65536
        whole["configs"] += [{"set": {"r": i}} for i in range(100, 499)]

    yield "configs", forged("linear", many)


def _carried() -> Found:
    def change(whole: dict[str, Any], payload: dict[str, bytes]) -> None:
        size, copies = 1 << 16, 300
        tensor = {f"x.{i}": ("U8", [size], bytes(size) if not i else b"") for i in range(copies)}
        carried(tensor)(whole, payload)
        whole["blobs"][0]["of"] = [None, *[0] * (copies - 1)]

    yield "carried", forged("linear", change)


def _streamed(data: bytes, *changes: Callable[..., None], name: str = "linear") -> bytes:
    """Return a golden bundle with another stream of its task."""

    def change(_: dict[str, Any], payload: dict[str, bytes]) -> None:
        payload["task/0"] = data

    return forged(name, together(*changes, change))


def _chunk(*writes: Write) -> bytes:
    coder = Coder()
    for write in writes:
        write(coder)
    return coder.finish()


def _nothing(coder: Coder) -> None:
    coder.side(Kind.COUNT, 0)


def _part(coder: Coder, exponent: int = 0) -> None:
    """Append a record of one part of zeros."""
    coder.side(Kind.COUNT, 1)
    coder.block([(0, 0, [])])
    coder.block([(0, 0, [])])
    coder.list(Kind.EXPONENT, [exponent])


def _blobs() -> Found:
    def blob(_: dict[str, Any], payload: dict[str, bytes]) -> None:
        payload["carried/0"] = deflated(bytes(11))

    yield "of-another-size-than-its-table", forged("bias", blob)


def _numbers() -> Found:
    numbers = 2 << 20
    large = modules(m=[1 << 20, 1], n=[1 << 20, 1])
    data = stream((2, numbers, _chunk(_part, _nothing)))
    yield "numbers", _streamed(data, large)


def _sealed(table: bytes, rest: bytes) -> bytes:
    return table + zlib.crc32(table).to_bytes(4, "little") + rest


def _tables() -> Found:
    chunk = _chunk(_part, _part)
    table = stream((2, sum(_ROOM), chunk))[: -len(chunk) - 4]
    crc = table[-4:]
    yield "another-crc-of-the-table", _streamed(table + b"\0\0\0\0" + chunk)
    yield "cut-off-table", _streamed(table[:-2])
    size = bytes([len(chunk)])
    for name, head in (
        ("long-varint", b"\x81\0" + b"\2" + bytes([27]) + size),
        ("no-chunks", b"\0"), ("no-records", b"\1\0" + bytes([27]) + size),
        ("more-records", b"\1\3" + bytes([27]) + size), ("fewer-bytes", b"\1\2\x1b\x01"),
        ("varint-of-six-bytes", b"\1\2" + b"\x9b" + b"\x80" * 4 + b"\1" + size),
        ("varint-beyond-32-bits", b"\1\2" + b"\xff\xff\xff\xff\x1f" + size),
    ):  # fmt: skip
        rest = crc if name != "no-chunks" else b""
        yield name, _streamed(_sealed(head + rest, chunk))
    yield "empty", _streamed(b"")


def _crcs() -> Found:
    chunk = _chunk(_part, _part)
    data = bytearray(stream((2, sum(_ROOM), chunk)))
    data[-1] ^= 1
    yield "another-crc-of-a-chunk", _streamed(bytes(data))


def _counts() -> Found:
    first, second = _chunk(_part), _chunk(_part)
    both = _chunk(_part, _part)
    yield "fewer-numbers", _streamed(stream((2, sum(_ROOM) - 1, both)))
    yield "more-numbers", _streamed(stream((2, sum(_ROOM) + 1, both)))
    more = stream((1, 14, both), (1, 13, second))
    yield "more-records-in-a-chunk", _streamed(more)
    yield "a-word-more", _streamed(stream((1, 14, first + b"\0\0"), (1, 13, second)))
    yield "a-byte-more", _streamed(stream((1, 14, first + b"\0"), (1, 13, second)))
    yield "seven-bytes", _streamed(stream((1, 14, first[:7]), (1, 13, second)))
    other = (first[0] ^ 1).to_bytes(1, "little") + first[1:]
    yield "another-state", _streamed(stream((1, 14, other), (1, 13, second)))
    row = FREQUENCIES[Kind.COUNT.table].tolist()
    symbol = 14 - Kind.COUNT.offset  # that of 0, with which the chunk would end where it should
    small = (sum(row[:symbol]) + 1).to_bytes(4, "little") + (1 << 16).to_bytes(4, "little")
    rest = 1, 0, _chunk(_nothing)
    yield "a-state-below-2-16", _streamed(stream((1, 0, small + b"\0\0"), rest))


def _ends() -> Found:
    coder = Coder()
    record(coder, 400, 400, 6, (0, 0), (0, 0), 1)
    chunk = coder.finish()
    large = modules(m=[400, 1], n=[400, 1])
    yield "cut-off-chunk", _streamed(stream((1, 4800, chunk[:20]), (1, 0, _chunk(_nothing))), large)


def _first(write: Write, numbers: int = 14) -> bytes:
    """Return ``linear`` with another first record, in a chunk of its own."""
    return _streamed(stream((1, numbers, _chunk(write)), (1, 0, _chunk(_nothing))))


def _sides() -> Found:
    for name, value in (("large", 1 << 30), ("negative", -(1 << 30)), ("largest", (1 << 31) - 1)):
        yield f"{name}-side-integer", _first(lambda coder, x=value: coder.side(Kind.COUNT, x + 10))


def _blocks() -> Found:
    def classes(*numbers: int) -> Write:
        def write(coder: Coder) -> None:
            coder.side(Kind.COUNT, len(numbers))
            coder.side(Kind.FIRST_CLASS, numbers[0])
            for a, b in itertools.pairwise(numbers):
                coder.side(Kind.NEXT_CLASS, b - a)

        return write

    yield "class-82", _first(classes(82))
    yield "class-below-0", _first(classes(-1))
    yield "second-class-82", _first(classes(0, 82), 28)

    def shaped(shape: int) -> Write:
        def write(coder: Coder) -> None:
            coder.side(Kind.COUNT, 1)
            coder.side(Kind.FIRST_CLASS, 3)
            coder.side(Kind.AFTER_NORMAL, shape)

        return write

    yield "shape-3", _first(shaped(3))
    yield "shape-below-0", _first(shaped(-1))

    def large(coder: Coder) -> None:
        coder.side(Kind.COUNT, 1)
        coder.block([(81, 0, [(1 << 26) + 1, *[0] * 7])])

    yield "large-number", _first(large)


def _exponents() -> Found:
    for exponent in (6401, -6401):
        yield f"exponent-{exponent}", _first(lambda coder, e=exponent: _part(coder, e))


def _modules() -> Found:
    def parts(coder: Coder) -> None:
        coder.side(Kind.COUNT, 14)

    yield "too-many-parts", _first(parts, 196)
    yield "parts-below-0", _first(lambda coder: coder.side(Kind.COUNT, -1), 0)
    for name, widths, ways in (
        ("mode-below-0", (3, 2), (0, -1)),
        ("shared-without-a-basis", (3, 0), (0, 1)), ("predicted-without-a-basis", (0, 2), (2, 0)),
        ("too-many-vectors", (7, 2), (0, 0)),
    ):  # fmt: skip
        yield name, with_bases([(widths, ways)])


def _of_tensor(write: Write, numbers: int = 24) -> bytes:
    """Return ``coded`` with another record of its first coded tensor, of 8 x 3 numbers."""
    chunks = (1, 0, _chunk(_nothing)), (1, numbers, _chunk(write)), (1, 3, _chunk(_nothing))
    return _streamed(stream(*chunks), name="coded")


def _tensors() -> Found:
    for what in (-1, 4, 8, 9 + 16 + 32, 16, 32):
        yield f"record-of-{what}", _of_tensor(lambda coder, x=what: coder.side(Kind.COUNT, x))

    def rest(what: int, step: int, *lists: list[int]) -> Write:
        def write(coder: Coder) -> None:
            coder.side(Kind.COUNT, 1 + what)
            coder.list(Kind.EXPONENT, [0])
            coder.side(Kind.COUNT, step)
            if what == 8:
                coder.side(Kind.COUNT, len(lists[0]))
            for each in lists:
                coder.list(Kind.COUNT, each)
            rows = len(lists[0]) if what == 8 else 8
            coder.block(columns(rows, 3, 0))

        return write

    yield "step-8", _of_tensor(rest(0, 8))
    yield "step-below-0", _of_tensor(rest(0, -1))
    yield "row-twice", _of_tensor(rest(8, 0, [1, 1]))
    yield "falling-rows", _of_tensor(rest(8, 0, [2, 1]))
    yield "row-beyond", _of_tensor(rest(8, 0, [1, 8]))
    yield "too-many-rows", _of_tensor(rest(8, 0, [*range(9)]))
    yield "large-offset", _of_tensor(rest(16, 0, [0, (1 << 24) + 1, 0]))


def _shared_parts() -> bytes:
    """Return a bundle with a shared record of parts, which costs its task nothing."""

    def parts(_: dict[str, Any], payload: dict[str, bytes]) -> None:
        writes = (lambda coder: coder.side(Kind.COUNT, 2)), _nothing
        shared = Coder()
        basis(shared, 6, 0, 0)
        basis(shared, 8, 0, 0)
        for write in writes:
            write(shared)
        payload["shared"] = stream((3, 0, shared.finish()))

    return forged("coded", parts)
