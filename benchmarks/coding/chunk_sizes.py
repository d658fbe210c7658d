"""Measure the bytes of bundles by the size of their chunks, and split.

    python -m benchmarks.coding chunk_sizes BUNDLE ...

Nothing is merged: the records of each bundle are written again. Format 1 is what the same records
take there: streams without chunks, zstd in place of deflate.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import zstandard

from benchmarks.commands import parser_of
from benchmarks.common import CODING, provenance, write_result
from hydraopt.bundle import strictjson
from hydraopt.bundle.container import INDEX_NAME, header_of, inflate, tensor_names
from hydraopt.bundle.reader import Bundle
from hydraopt.bundle.spec import Manifest
from hydraopt.bundle.writer import pack_bundle
from hydraopt.coding.chunks import Chunk, ChunkWriter, read_table
from hydraopt.coding.dense import DenseRecord, matrix_shape, read_common, read_dense, write_dense
from hydraopt.coding.records import PartsRecord, read_record, write_record
from hydraopt.coding.side import BasisRecord, read_exponents, write_basis
from hydraopt.coding.stream import StreamReader, StreamWriter
from hydraopt.coding.tables import Kind
from hydraopt.collection.opening import open_bundle
from hydraopt.collection.splitting import split

SIZES = {f"{kib} KiB": kib << 10 for kib in (8, 16, 32, 64, 128, 256)} | {"whole": 1 << 40}
_MOST_VECTORS = 1 << 16
_LEVEL = 19


@dataclass
class Records:
    """Everything that a bundle's streams hold."""

    bases: list[tuple[BasisRecord | None, BasisRecord | None]]
    commons: list[DenseRecord]
    tasks: list[tuple[list[PartsRecord | None], list[DenseRecord]]]


def _basis(reader: StreamReader, length: int) -> BasisRecord | None:
    most = min(length, _MOST_VECTORS)
    count = reader.integer(Kind.COUNT, 0, most, "the number of basis vectors")
    reader.spend(length * count)
    if count == 0:
        return None
    block = reader.coded(length, count)
    return BasisRecord(block, read_exponents(reader, count))


def records_of(bundle: Bundle) -> Records:
    """Return all records, as writers take them."""
    manifest = bundle.manifest
    none = [(None, None)] * len(manifest.modules)
    records = Records(list(none), [DenseRecord()] * len(manifest.tensors), [])
    if bundle.tensor_bytes["shared"]:
        count = len(manifest.modules) + len(manifest.tensors)
        reader = bundle.open_stream("shared", count)
        for i, module in enumerate(manifest.modules):
            records.bases[i] = _basis(reader, module.m), _basis(reader, module.n)
            reader.end_record()
        for i, tensor in enumerate(manifest.tensors):
            shape = matrix_shape(tensor.shape)
            records.commons[i] = read_common(reader, shape) or DenseRecord()
            reader.end_record()
    for content in range(manifest.streams):
        task = next(x for x in manifest.tasks if x.content == content)
        reader = bundle.open_stream(f"task/{content}", len(task.modules) + len(task.tensors))
        parts, dense = [], []
        for i in task.modules:
            module = manifest.modules[i]
            left, right = (None if x is None else x.basis for x in records.bases[i])
            parts.append(read_record(reader, module.m, module.n, (left, right)))
            reader.end_record()
        for i in task.tensors:
            entry, common = manifest.tensors[i], records.commons[i].rest is not None
            based = entry.base is not None
            dense.append(read_dense(reader, matrix_shape(entry.shape), common, based))
            reader.end_record()
        records.tasks.append((parts, dense))
    return records


def streams_of(records: Records, manifest: Manifest, most: int | None) -> tuple[bytes, list[bytes]]:
    """Return the shared stream and those of tasks in chunks of ``most`` bytes.

    most: None for streams as in format 1.
    """

    def end(writer: StreamWriter, numbers: int) -> None:
        if isinstance(writer, ChunkWriter):
            writer.end_record(numbers)

    def new() -> StreamWriter:
        return StreamWriter() if most is None else ChunkWriter(most)

    shared, streams = new(), []
    for pair in records.bases:
        for basis in pair:
            write_basis(shared, basis)
        end(shared, sum(basis.block.levels.size for basis in pair if basis))
    for entry, common in zip(manifest.tensors, records.commons, strict=True):
        write_dense(shared, common)
        end(shared, common.numbers(entry.numbers, bounded=True))
    for content, (parts, dense) in enumerate(records.tasks):
        task, writer = next(x for x in manifest.tasks if x.content == content), new()
        for i, record in zip(task.modules, parts, strict=True):
            write_record(writer, record, records.bases[i] != (None, None))
            end(writer, record.numbers if record else 0)
        for i, one in zip(task.tensors, dense, strict=True):
            entry = manifest.tensors[i]
            write_dense(writer, one)
            end(writer, one.numbers(entry.numbers, entry.base is not None))
        streams.append(writer.finish())
    empty = all(pair == (None, None) for pair in records.bases)
    empty &= all(common.rest is None for common in records.commons)
    return (b"" if empty else shared.finish()), streams


def format_1(bundle: Bundle, records: Records) -> int:
    """Return the bytes of the file that version 1 would have made of the same records."""
    manifest = bundle.manifest
    shared, streams = streams_of(records, manifest, None)
    blobs = [bundle.read(f"carried/{i}") for i in range(len(manifest.blobs))]
    plain = [strictjson.dumps(manifest.to_json()).encode()]
    plain += [inflate(x, None, 1 << 32, "a blob") for x in blobs]
    packed = [zstandard.ZstdCompressor(_LEVEL).compress(x) for x in plain]
    payload = [packed[0], shared, *streams, *packed[1:]]
    about = manifest.metadata(1) | {
        "library": bundle.metadata["library"],
        "checksums": strictjson.dumps(["0" * 16] * len(payload)),
    }
    names = tensor_names(len(streams), len(blobs))
    pairs = zip(names, payload, strict=True)
    head = header_of([(x, "U8", (len(data),), len(data)) for x, data in pairs], about)
    return len(head) + sum(map(len, payload))


def measure(path: Path) -> dict[str, Any]:
    """Return the row of a bundle."""
    bundle = open_bundle(path)
    manifest, records = bundle.manifest, records_of(bundle)
    row: dict[str, Any] = {"bundle": path.name.partition(".")[0], "tasks": len(bundle)}
    row["format_1"] = format_1(bundle, records)
    blobs = [bundle.read(f"carried/{i}") for i in range(len(manifest.blobs))]
    for name, most in SIZES.items():
        shared, streams = streams_of(records, manifest, most)
        size = pack_bundle(manifest, shared, streams, blobs).size
        count = len(chunks_of(shared, manifest))
        row[name] = {"bytes": size, "shared": len(shared), "shared_chunks": count}
    with tempfile.TemporaryDirectory() as folder:
        made = split(path, Path(folder) / "apart")
        row["apart"] = sum(x.size for x in made if x.path.name != INDEX_NAME)
    row["format_2"] = bundle.size
    return row


def chunks_of(shared: bytes, manifest: Manifest) -> list[Chunk]:
    """Return the chunks of a shared stream, which is sound."""

    def never(what: str) -> NoReturn:
        raise RuntimeError(what)

    if not shared:
        return []
    return read_table(memoryview(shared), len(manifest.modules) + len(manifest.tensors), never)[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE")
    args = parser.parse_args(arguments)
    head = provenance("bytes of bundles by the size of chunks")
    rows = []
    for path in args.bundles:
        rows.append(measure(path))
        print(rows[-1], flush=True)
    print(write_result(CODING, "chunk_sizes", head, rows))


if __name__ == "__main__":
    main()
