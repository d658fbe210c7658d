"""Bundles that lie: their pieces are exchanged, their checksums are right."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any

from hydraopt.bundle import checksum, encoding as strictjson
from hydraopt.bundle.encoding import deflate, tensor_names
from hydraopt.codec.chunks import Chunk, pack_table
from hydraopt.codec.stream import StreamWriter
from hydraopt.codec.tables import Kind
from tests.bundle.bundles import Parts


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


def promise(count: int, records: int, numbers: int = 0) -> bytes:
    """A stream of so many records, which says how many vectors follow, and then nothing."""
    writer = StreamWriter()
    writer.integer(Kind.COUNT, count)
    data = writer.finish()
    return pack_table([Chunk(records, numbers, len(data), zlib.crc32(data))]) + data
