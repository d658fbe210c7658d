"""Forge bundles with correct checksums and false contents, from a seed."""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from typing import Any

from benchmarks.hostile.mutate import (
    ANY,
    Mutation,
    blank,
    damage_json,
    extend,
    flip_bits,
    join,
    split,
    swap_ranges,
    truncate,
)
from hydraopt.codec.chunks import Chunk, pack_table


def seal(header: Any, parts: list[bytes]) -> bytes:
    """Return a bundle of these tensors whose offsets and checksums are right."""
    position = 0
    names = [name for name in header if name != "__metadata__"]
    for name, part in zip(names, parts, strict=True):
        header[name] = {
            "dtype": "U8",
            "shape": [len(part)],
            "data_offsets": [position, position + len(part)],
        }
        position += len(part)
    checksums = [hashlib.sha256(part).hexdigest()[:16] for part in parts]
    header["__metadata__"]["checksums"] = json.dumps(checksums, separators=(",", ":"))
    return join(header, b"".join(parts))


def parts_of(data: bytes) -> tuple[Any, list[bytes]]:
    """Return the header of a bundle and the bytes of its tensors."""
    header, body = split(data)
    offsets = [x["data_offsets"] for name, x in header.items() if name != "__metadata__"]
    return header, [body[a:b] for a, b in offsets]


def forge_manifest(data: bytes, rng: random.Random) -> bytes:
    """Return a bundle whose manifest says something else, with a checksum that agrees."""
    header, parts = parts_of(data)
    manifest = manifest_of(parts[0])
    for _ in range(rng.choice([1, 1, 2, 5])):
        manifest = damage_json(manifest, rng)
    text = json.dumps(manifest, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "replace"
    )
    parts[0] = deflated(text)
    return seal(header, parts)


def forge_shape(data: bytes, rng: random.Random) -> bytes:
    """Return a bundle with modules of another size than the streams were written for."""
    header, parts = parts_of(data)
    manifest = manifest_of(parts[0])
    for side in ("m", "n"):
        manifest["modules"][side] = {"=": rng.choice([1, 2, 31, 33, 4096, 2**20, 2**24])}
    parts[0] = deflated(json.dumps(manifest).encode())
    return seal(header, parts)


def forge_stream(data: bytes, rng: random.Random) -> bytes:
    """Return a bundle with a coded stream or blob that is damaged, and checksums that agree.

    Most often it is damaged inside a chunk whose table agrees as well.
    """
    header, parts = parts_of(data)
    choices = [i for i, part in enumerate(parts) if part and i > 0]
    i = rng.choice(choices)
    kinds: list[Mutation] = [flip_bits, truncate, extend, swap_ranges, blank]
    names = [name for name in header if name != "__metadata__"]
    if names[i].startswith("carried") or rng.random() < 0.2:
        damaged = rng.choice(kinds)(parts[i], rng)
        parts[i] = rng.randbytes(len(damaged)) if rng.random() < 0.1 else damaged
    else:
        parts[i] = damage_chunk(parts[i], rng, kinds)
    return seal(header, parts)


def damage_chunk(stream: bytes, rng: random.Random, kinds: list[Mutation]) -> bytes:
    """Return a stream with one chunk damaged, or one row of its table, and a table that agrees."""
    chunks, start = chunks_of(stream)
    pieces = []
    for chunk in chunks:
        pieces.append(stream[start : start + chunk.size])
        start += chunk.size
    i = rng.randrange(len(chunks))
    if rng.random() < 0.8:
        pieces[i] = rng.choice(kinds)(pieces[i], rng) if pieces[i] else b"\1"
    rows = [
        Chunk(x.records, x.numbers, len(piece), zlib.crc32(piece))
        for x, piece in zip(chunks, pieces, strict=True)
    ]
    if rng.random() < 0.2:
        name = rng.choice(["records", "numbers"])
        other = rng.choice([1, 2, 1 << 16, (1 << 32) - 1])
        rows[i] = rows[i]._replace(**{name: other})
    return pack_table(rows) + b"".join(pieces)


def chunks_of(stream: bytes) -> tuple[list[Chunk], int]:
    """Return the table of a sound stream, and the bytes that it takes."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = place = 0
        while True:
            byte = stream[at]
            value |= (byte & 127) << place
            at, place = at + 1, place + 7
            if byte < 128:
                return value

    rows = []
    for _ in range(varint()):
        counts = varint(), varint(), varint()
        rows.append(Chunk(*counts, int.from_bytes(stream[at : at + 4], "little")))
        at += 4
    return rows, at + 4


def swap_streams(data: bytes, rng: random.Random) -> bytes:
    """Return a bundle with whole tensors exchanged, and checksums that agree."""
    header, parts = parts_of(data)
    i, j = rng.randrange(len(parts)), rng.randrange(len(parts))
    parts[i], parts[j] = parts[j], parts[i]
    return seal(header, parts)


def bomb(data: bytes, rng: random.Random) -> bytes:
    """Return a bundle with a deflated part that unpacks to far too much, or lies about how much."""
    header, parts = parts_of(data)
    if rng.random() < 0.5:
        packed = deflated(bytes(rng.choice([10**6, 10**8])))
    else:
        lie = rng.choice([0, 299, 301, 2**24, 2**32 - 1])
        packed = lie.to_bytes(4, "little") + zlib.compress(rng.randbytes(300))
    carried = [i for i, name in enumerate(x for x in header if x != "__metadata__") if "c" in name]
    parts[rng.choice([0, *carried])] = packed
    return seal(header, parts)


def manifest_of(part: bytes) -> Any:
    """Return the manifest that a tensor packs."""
    return json.loads(zlib.decompress(part[4:]))


def deflated(data: bytes) -> bytes:
    """Return data as a bundle packs them: their size in 4 bytes, then their zlib stream."""
    return len(data).to_bytes(4, "little") + zlib.compress(data, 1)


def packed(manifest: Any) -> bytes:
    """Return a packed manifest; one too deep to be written becomes nested brackets."""
    try:
        text = json.dumps(manifest, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        text = "[" * 20_000
    return deflated(text.encode("utf-8", "replace"))


def forge_many(data: bytes, rng: random.Random) -> bytes:
    """Return a bundle whose manifest has far more rows than the file has bytes for.

    They are rows of modules, tasks, or both.
    """
    header, parts = parts_of(data)
    manifest = manifest_of(parts[0])
    modules, tasks = manifest.get("modules", {}), manifest.get("tasks", {})
    count = rng.choice([10, 1000, 30_000, 300_000])
    if rng.random() < 0.6 and modules:
        old = len(modules["path"])
        modules["path"] = [f"m{i}" for i in range(count)]
        for key, column in list(modules.items()):
            if key != "path" and isinstance(column, list) and len(column) == old:
                modules[key] = {"=": column[0]}
        tasks.pop("errors", None) if rng.random() < 0.5 else None
        tasks["errors"] = {"=": "A" * (4 * count // 3)}
    if rng.random() < 0.6 and tasks:
        old = len(tasks["name"])
        tasks["name"] = [f"t{i:06}" for i in range(rng.choice([10, 1000, 30_000]))]
        for key, column in list(tasks.items()):
            if key != "name" and isinstance(column, list) and len(column) == old:
                tasks[key] = {"=": column[0]}
        names = json.dumps(tasks["name"], separators=(",", ":"))
        header["__metadata__"]["tasks"] = names
    parts[0] = packed(manifest)
    return seal(header, parts)


def forge_zeros(data: bytes, rng: random.Random) -> bytes:
    """Return a bundle with streams of one byte repeated, and with large modules.

    Such streams stand for more numbers than any other.
    """
    header, parts = parts_of(data)
    manifest = manifest_of(parts[0])
    for side in ("m", "n"):
        manifest.get("modules", {})[side] = {"=": rng.choice([64, 1024, 2**16, 2**20, 2**24])}
    parts[0] = packed(manifest)
    for i in range(1, len(parts)):
        kind = rng.randrange(4)
        if kind == 0:
            parts[i] = bytes([rng.choice([0, 1, 127, 255])]) * rng.choice([1, 16, 200, 5000])
        elif kind == 1:
            parts[i] = parts[i][: rng.randrange(1, 24)] + b"\0" * rng.choice([10, 200])
    return seal(header, parts)


def forge_config(data: bytes, rng: random.Random) -> bytes:
    """Return a bundle whose configs, groups or ranks make an export allocate."""
    from benchmarks.hostile.configs import damage_settings

    header, parts = parts_of(data)
    manifest = manifest_of(parts[0])
    configs = manifest.get("configs") or [{}]
    kind = rng.randrange(4)
    if kind <= 1:
        manifest["configs"] = [damage_settings(configs[0], rng), *configs[1:]]
    elif kind == 2:
        groups = rng.choice([2, 1000, 2**20])
        layout = rng.choice(["rows", "experts"])
        manifest.get("modules", {}).update(
            {"layout": {"=": layout}, "groups": {"=": groups}, "group": {"=": groups - 1}}
        )
    else:
        rank = rng.choice([0, 1, 10**6, 10**9, 10**400])
        scale = rng.choice([1.0, 0, -1e308, 10**400])
        rows = [[i, rank, 2.0] for i in range(rng.choice([0, 1, 1000]))]
        manifest.get("tasks", {})["ranks"] = {"=": [rank, scale, *rows]}
        configs[0] |= {"enable_lora": [True] * rng.choice([1, 1000, 10**6])}
    parts[0] = packed(manifest)
    return seal(header, parts)


def forge_blobs(data: bytes, rng: random.Random) -> bytes:
    """Return a bundle with carried blobs of zeros that the table agrees with, and many copies."""
    header, parts = parts_of(data)
    manifest = manifest_of(parts[0])
    blobs = manifest.get("blobs") or []
    if not blobs:
        return forge_many(data, rng)
    names = [x for x in header if x != "__metadata__"]
    for i, blob in enumerate(blobs):
        size = rng.choice([0, 1, 4096, 2**24, 2**28, 2**31])
        copies = rng.choice([1, 3, 1000])
        keys = blob["key"][:1] * 1
        blob.clear()
        more = [f"{keys[0]}.{j}" for j in range(copies - 1)]
        blob.update(
            key=[*keys, *more], dtype={"=": "U8"}, shape={"=": [size]},
            of=[None, *([0] * (copies - 1))],
        )  # fmt: skip
        at = names.index(f"carried/{i}")
        stream = zlib.compressobj(1)
        made = [stream.compress(bytes(min(size, 2**24))) for _ in range(max(size // 2**24, 1))]
        parts[at] = (size % 2**32).to_bytes(4, "little") + b"".join([*made, stream.flush()])
    parts[0] = packed(manifest)
    return seal(header, parts)


BUNDLE: dict[str, Mutation] = ANY | {
    f.__name__: f
    for f in (
        forge_manifest,
        forge_shape,
        forge_stream,
        swap_streams,
        bomb,
        forge_many,
        forge_zeros,
        forge_config,
        forge_blobs,
    )
}
"""What is done to bundles, by name; those but ``ANY`` forge the checksums as well."""
