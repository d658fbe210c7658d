"""Encoding of refit results for the cache, because training takes minutes and may be repeated.

The records of a task's modules form one stream, as in a bundle.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

from hydraopt.coding.chunks import ChunkReader, ChunkWriter
from hydraopt.coding.records import PartsRecord, read_record, write_record
from hydraopt.coding.stream import StreamReader
from hydraopt.compress.recode import CodedModule
from hydraopt.errors import HydraoptError

__all__ = ["depends_on", "kept_records", "recalled_records"]


def depends_on(coded: Mapping[str, CodedModule]) -> list[bytes | str]:
    """Return all of some modules that a refit of them depends on."""
    parts: list[bytes | str] = []
    for path, module in sorted(coded.items()):
        record = module.record
        parts += [path, str(record.mode.code), record.exponents.tobytes()]
        for side in (record.left, record.right):
            parts.append(side.values.tobytes())
            for block in (side.coordinates, side.own):
                parts.append(b"" if block is None else block.spreads.tobytes())
        parts += [b"" if x is None else x.vectors.tobytes() for x in (module.left, module.right)]
    return parts


def kept_records(
    records: Mapping[str, PartsRecord], coded: Mapping[str, CodedModule]
) -> dict[str, Any]:
    """Return the records of some of these modules as JSON values."""
    writer = ChunkWriter()
    for path, record in sorted(records.items()):
        write_record(writer, record, _has_bases(coded[path]))
        writer.end_record(record.numbers)
    data = base64.b64encode(writer.finish()).decode("ascii")
    return {"modules": sorted(records), "stream": data}


def recalled_records(value: Any, coded: Mapping[str, CodedModule]) -> dict[str, PartsRecord] | None:
    """Return the records in a cached value.

    Returns None if the value does not hold records of these modules.
    """
    try:
        paths, data = value["modules"], base64.b64decode(value["stream"], validate=True)
        if len(paths) > len(coded):
            return None
        reader = ChunkReader(
            data, len(paths), _at_most(sum(x.record.numbers for x in coded.values()))
        )
        records = {path: _next(reader, coded[path]) for path in paths}
        reader.close()
    except (HydraoptError, AssertionError, KeyError, TypeError, ValueError):
        return None
    return records


def _at_most(most: int) -> Callable[[int], None]:
    def spend(numbers: int) -> None:
        if numbers > most:
            raise ValueError(f"{numbers} numbers, {most} at most")

    return spend


def _next(reader: StreamReader, module: CodedModule) -> PartsRecord:
    before = module.record
    m, n = before.left.values.shape[0], before.right.values.shape[0]
    record = read_record(reader, m, n, module.left, module.right)
    reader.end_record()
    if record is None or (record.count, record.mode) != (before.count, before.mode):
        raise ValueError("a record of another kind")
    return record


def _has_bases(module: CodedModule) -> bool:
    return module.left is not None or module.right is not None
