"""Bundles that lie, each in one way: name -> (bytes, error class, words of its message).

All start from one sound bundle. Where the lie is not about checksums, checksums are right, so that
nothing but the check in question can refuse the file.
"""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from hydraopt.bundle import strictjson
from hydraopt.bundle.container import deflate, tensor_names
from hydraopt.bundle.writer import checksum
from hydraopt.coding.chunks import Chunk, pack_table, read_table
from hydraopt.coding.stream import StreamWriter
from hydraopt.coding.tables import Kind
from hydraopt.errors import BundleFormatError, ChecksumError, UnsupportedVersionError
from tests.bundle.bundles import Parts

Case = tuple[str, bytes, type[Exception], str]


def pack(
    parts: Parts,
    *,
    manifest: Any = None,
    packed: bytes | None = None,
    shared: bytes | None = None,
    streams: Sequence[bytes] | None = None,
    blobs: Sequence[bytes] | None = None,
    names: Sequence[str] | None = None,
    header: Any = None,
    **metadata: Any,
) -> bytes:
    """The file of ``parts`` with some pieces exchanged and nothing checked.

    header: called with the header dict before it is written.  metadata: None removes a key.
    """
    value = parts.manifest.to_json() if manifest is None else manifest
    if packed is None:
        packed = deflate(strictjson.dumps(value).encode())
    streams = parts.streams if streams is None else streams
    blobs = parts.blobs if blobs is None else blobs
    payload = [packed, parts.shared if shared is None else shared, *streams, *blobs]
    names = names or tensor_names(len(streams), len(blobs))
    tasks = value.get("tasks", {}).get("name", []) if isinstance(value, dict) else []
    about = {
        "format": "hydraopt",
        "format_version": "2",
        "base_model": "org/tiny",
        "tasks": strictjson.dumps(tasks),
        "checksums": strictjson.dumps([checksum(data) for data in payload]),
        **metadata,
    }
    head: dict[str, Any] = {"__metadata__": {k: v for k, v in about.items() if v is not None}}
    position = 0
    for name, data in zip(names, payload, strict=True):
        offsets = [position, position + len(data)]
        head[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": offsets}
        position += len(data)
    if header is not None:
        header(head)
    text = json.dumps(head, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(payload)


def generate(parts: Parts) -> Iterator[Case]:
    """Every case; ``parts`` needs shared bases, two tasks or more, and a carried blob."""
    sound = pack(parts)
    for place in (0, 5, 8, 100, len(sound) // 2, len(sound) - 1):
        yield f"cut at {place}", sound[:place], BundleFormatError, "not a bundle, or damaged"
    yield "bytes behind", sound + b"x", BundleFormatError, "belong to no tensor"
    huge = (1 << 62).to_bytes(8, "little")
    yield "lying header length", huge + sound[8:], BundleFormatError, "cut off inside its header"
    yield from _container(parts)
    yield from _manifests(parts)
    yield from _payloads(parts, sound)
    yield from _chunks(parts)


def _container(parts: Parts) -> Iterator[Case]:
    def offsets(name: str, begin: int, end: int) -> Any:
        def change(head: dict[str, Any]) -> None:
            head[name] = {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}

        return change

    def wide(head: dict[str, Any]) -> None:
        head["shared"]["shape"] = [1 << 62, 4]

    def signed(head: dict[str, Any]) -> None:
        head["shared"]["dtype"] = "I8"

    def turned(head: dict[str, Any]) -> None:
        first, second = head["task/0"], head["task/1"]
        start, middle = first["data_offsets"][0], first["data_offsets"][0] + second["shape"][0]
        second["data_offsets"] = [start, middle]
        first["data_offsets"] = [middle, middle + first["shape"][0]]

    bad = BundleFormatError
    yield "another order", pack(parts, header=turned), bad, "another order"
    yield "overlap", pack(parts, header=offsets("shared", 0, 9)), bad, "overlap others"
    yield "overflowing shape", pack(parts, header=wide), bad, "does not follow from its shape"
    yield "other dtype", pack(parts, header=signed), bad, "not a row of bytes"
    names = tensor_names(len(parts.streams), len(parts.blobs))
    swapped = [names[1], names[0], *names[2:]]
    yield "renamed", pack(parts, names=[*names[:-1], "extra"]), bad, "not those of the manifest"
    yield "manifest elsewhere", pack(parts, names=swapped), bad, "cannot be unpacked"
    extra = pack(parts, blobs=[*parts.blobs, b"x"])
    yield "extra tensor", extra, bad, "not those of the manifest"
    newer = pack(parts, format_version="3")
    yield "newer version", newer, UnsupportedVersionError, "newer format"
    older = pack(parts, format_version="1")
    yield "older version", older, UnsupportedVersionError, "unreleased"
    yield "no version", pack(parts, format_version=None), bad, "makes no sense"
    yield "version in words", pack(parts, format_version="one"), bad, "makes no sense"
    yield "other format", pack(parts, format="pt"), bad, "not a bundle"
    yield "no checksums", pack(parts, checksums=None), bad, "checksums do not fit"
    yield "one checksum", pack(parts, checksums='["00"]'), bad, "checksums do not fit"
    yield "other names", pack(parts, tasks='["x"]'), bad, "contradicts the manifest"
    yield "other base", pack(parts, base_model="org/large"), bad, "contradicts the manifest"
    yield "unknown metadata", pack(parts, more="x"), bad, "unknown keys"


def _manifests(parts: Parts) -> Iterator[Case]:
    bad = BundleFormatError

    def changed(*path: Any, to: Any) -> bytes:
        value = copy.deepcopy(parts.manifest.to_json())
        inner = value
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = to
        return pack(parts, manifest=value)

    yield "unknown key", changed("more", to=1), bad, "unknown keys"
    yield "unknown column", changed("tasks", "more", to=[]), bad, "unknown columns"
    yield "not an object", pack(parts, manifest=[]), bad, "not an object"
    count = len(parts.manifest.tasks)
    for name in ("../up", "a/b", "a\\b", "..", "", "a\n", "\u202eab", "a\u200bb", "x" * 201):
        names = [*[f"t{i}" for i in range(count - 1)], name]
        yield f"task {name[:9]!r}", changed("tasks", "name", to=names), bad, "task name"
    twice = ["de"] * count
    yield "duplicate tasks", changed("tasks", "name", to=twice), bad, "occur twice"
    unsorted = [f"t{count - i}" for i in range(count)]
    yield "unsorted tasks", changed("tasks", "name", to=unsorted), bad, "not sorted"
    modules = len(parts.manifest.modules)
    for m in (0, -1, 1.5, True, (1 << 24) + 1, 1 << 70, "8", None):
        yield f"m = {m}", changed("modules", "m", to=[m] * modules), bad, "m of"
    paths = ["p"] * modules
    yield "duplicate modules", changed("modules", "path", to=paths), bad, "occur twice"
    yield "few values", changed("modules", "m", to=[1]), bad, "does not fit"
    yield "stream far", changed("tasks", "content", to={"=": 9}), bad, "numbered"
    yield "config far", changed("tasks", "config", to={"=": 9}), bad, "not there"
    yield "blob far", changed("tasks", "carried", to={"=": [9]}), bad, "not there"
    yield "ranges", changed("tasks", "modules", to={"=": [0, 99]}), bad, "ranges"
    yield "ranges back", changed("tasks", "modules", to={"=": [1, 0]}), bad, "do not rise"
    yield "errors", changed("tasks", "errors", to={"=": "*"}), bad, "base64"
    yield "few errors", changed("tasks", "errors", to={"=": "AA"}), bad, "errors of"
    yield "harm", changed("tasks", "harm", to={"=": [2, 1, 0.5, 0.5, True]}), bad, "answers"
    for start in (7, [42], [-1, 9], [42, 0], [42, 1 << 31], [42, 1.5], [True, 9]):
        yield f"start {start}", changed("tasks", "start", to={"=": start}), bad, "start of"
    yield "infinite shape", changed("blobs", 0, "shape", to=[[1 << 41]] * 2), bad, "shape of"
    yield "endless shape", changed("blobs", 0, "shape", to=[[1 << 30, 1 << 30]] * 2), bad, "size of"
    yield "shared forward", changed("blobs", 0, "of", to=[1, None]), bad, "first copy"
    for text, words in (
        (b'{"a":1,"a":2}', "twice"),
        (b'{"a":NaN}', "not JSON"),
        (b"\xff", "JSON"),
        (b"[" * 100_000, "JSON"),
    ):
        yield f"text {text[:9]!r}", pack(parts, packed=deflate(text)), bad, words


def _payloads(parts: Parts, sound: bytes) -> Iterator[Case]:
    bad = BundleFormatError
    last = bytearray(sound)
    last[-1] ^= 1
    yield "flipped bit", bytes(last), ChecksumError, "not those that were written"
    bomb = deflate(bytes(1 << 24))
    yield "bomb for a blob", pack(parts, blobs=[bomb]), bad, "cannot be unpacked"
    # Refused by what it claims: four gigabytes, of which there is nothing.
    claim = b"\xff\xff\xff\xff" + zlib.compress(b"{}")
    yield "bomb for a manifest", pack(parts, packed=claim), bad, "cannot be unpacked"
    sound_blob = parts.blobs[0]
    size = int.from_bytes(sound_blob[:4], "little")
    content = zlib.decompress(sound_blob[4:])
    lies = {
        "shorter content": sound_blob[:4] + zlib.compress(content[:-1]),
        "longer content": sound_blob[:4] + zlib.compress(content + b"x"),
        "another size": (size + 1).to_bytes(4, "little") + zlib.compress(content + b"x"),
        "two streams": sound_blob + zlib.compress(b""),
        "bytes behind it": sound_blob + b"\0",
        "cut in its checksum": sound_blob[:-1],
        "another checksum": sound_blob[:-1] + bytes([sound_blob[-1] ^ 1]),
        "raw deflate": sound_blob[:4] + sound_blob[6:],
        "not deflated": sound_blob[:4] + b"hello",
        "no size": b"\x01\x02\x03",
    }
    for name, blob in lies.items():
        yield name, pack(parts, blobs=[blob]), bad, "cannot be unpacked"
    yield "short stream", pack(parts, streams=[b"\x00", *parts.streams[1:]]), bad, "damaged stream"
    yield "empty shared", pack(parts, shared=b"\x00"), bad, "damaged stream"
    longer = [parts.streams[0] + b"\x01" * 9, *parts.streams[1:]]
    yield "long stream", pack(parts, streams=longer), bad, "damaged stream"
    yield "long shared", pack(parts, shared=parts.shared + b"\x01" * 9), bad, "damaged stream"
    yield "huge block", _huge(parts), bad, "damaged stream"


def _chunks(parts: Parts) -> Iterator[Case]:
    """Tables and chunks that lie, with a checksum that agrees where it is not the lie."""

    def case(name: str, stream: bytes, words: str) -> Case:
        file = pack(parts, streams=[stream, *parts.streams[1:]])
        return name, file, BundleFormatError, "damaged stream.*" + words

    stream, records = parts.streams[0], len(parts.manifest.modules)
    (only,), start = read_table(memoryview(stream), records, _never)
    data = stream[start:]

    def told(**lie: int) -> bytes:
        return pack_table([only._replace(**lie)]) + data

    yield case("no table", b"", "cut off")
    yield case("no chunks", b"\0" + data, "a number of chunks")
    yield case("cut table", stream[: start - 1], "cut off")
    yield case("no records", told(records=0), "records that no writer")
    yield case("few records", told(records=records - 1), f"{records - 1} records")
    yield case("many records", told(records=records + 1), f"{records + 1} records")
    yield case("few numbers", told(numbers=only.numbers - 1), "more than the")
    yield case("many numbers", told(numbers=only.numbers + 1), f"{only.numbers} numbers")
    yield case("few bytes", told(size=only.size - 1), "bytes, expected")
    yield case("checksum", told(crc=only.crc ^ 1), "a chunk does not fit")
    flipped = bytearray(stream)
    flipped[start - 1] ^= 1
    yield case("table's checksum", bytes(flipped), "table of chunks does not fit")
    long = bytearray(stream[: start - 4])
    long[1:2] = bytes([long[1] | 128, 0])
    table = bytes(long) + zlib.crc32(long).to_bytes(4, "little")
    yield case("a varint too long", table + data, "records that no writer")
    beyond = b"\x01\xff\xff\xff\xff\x1f" + bytes(9)
    yield case("a varint of 33 bits", beyond, "records that no writer")
    more = data + b"\1" * 8
    chunk = only._replace(size=len(more), crc=zlib.crc32(more))
    yield case("bytes after records", pack_table([chunk]) + more, "does not end")


def _never(what: str) -> NoReturn:
    raise AssertionError(what)


def _huge(parts: Parts) -> bytes:
    """Modules of 2^24 x 2^24, right checksums, and a stream that claims 2^23 parts."""
    value = copy.deepcopy(parts.manifest.to_json())
    value["modules"]["m"] = value["modules"]["n"] = {"=": 1 << 24}
    stream = promise(1 << 23, len(parts.manifest.modules))
    return pack(parts, manifest=value, shared=b"", streams=[stream] * len(parts.streams))


def promise(count: int, records: int, numbers: int = 0) -> bytes:
    """A stream of so many records, which says how many vectors follow, and then nothing."""
    writer = StreamWriter()
    writer.integer(Kind.COUNT, count)
    data = writer.finish()
    return pack_table([Chunk(records, numbers, len(data), zlib.crc32(data))]) + data
