"""Measure the share of the core that a task needs, in numbers of the bases.

    python -m benchmarks.coding core_use BUNDLE ...

``used``: numbers of the basis vectors that some part of the task has a coordinate for, not 0.
``reached``: what a reader of that task has to decode. A chunk decodes alone, but from its start and
without a gap, so that is each chunk up to the last vector that is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.coding.chunk_sizes import chunks_of, records_of
from benchmarks.commands import parser_of
from benchmarks.common import CODING, provenance, write_result
from hydraopt.coding.records import PartsRecord
from hydraopt.coding.side import BasisRecord, Side
from hydraopt.collection.opening import open_bundle

Vectors = NDArray[np.int64]
"""(2, q): the numbers of each vector of a record, and those of them that are used."""


def _vectors(basis: BasisRecord | None, side: Side | None) -> Vectors:
    if basis is None:
        return np.zeros((2, 0), np.int64)
    count, length = basis.block.levels.shape
    found = np.zeros((2, count), np.int64)
    found[0] = length
    if side is not None and side.coordinates is not None:
        found[1] = length * side.coordinates.integers.any(axis=0)
    return found


def vectors_of(
    bases: tuple[BasisRecord | None, BasisRecord | None], record: PartsRecord | None
) -> Vectors:
    """Return the vectors of both bases of a module, in the order in which they are written."""
    sides = (None, None) if record is None else (record.left, record.right)
    return np.hstack([_vectors(basis, side) for basis, side in zip(bases, sides, strict=True)])


def use(chunk: Sequence[Vectors]) -> tuple[int, int]:
    """Return the numbers of a chunk of records that are used, and those up to the last one used."""
    numbers, used = np.hstack([np.zeros((2, 0), np.int64), *chunk])
    places = np.flatnonzero(used)
    return int(used.sum()), int(numbers[: places[-1] + 1].sum()) if places.size else 0


def measure(path: Path) -> dict[str, Any]:
    """Return the row of a bundle."""
    bundle = open_bundle(path)
    manifest, records = bundle.manifest, records_of(bundle)
    counts = [x.records for x in chunks_of(bundle.read("shared"), manifest)]
    ends = np.cumsum(counts)
    total = sum(int(vectors_of(pair, None)[0].sum()) for pair in records.bases)
    tasks: list[dict[str, Any]] = []
    for task in manifest.tasks:
        if task.content is None:
            continue
        parts = dict(zip(task.modules, records.tasks[task.content][0], strict=True))
        all_vectors = [vectors_of(pair, parts.get(i)) for i, pair in enumerate(records.bases)]
        uses = [use(all_vectors[a:b]) for a, b in zip(ends - counts, ends, strict=True)]
        used, reached = (sum(x) for x in zip(*uses, strict=True))
        tasks.append({"task": task.name, "used": used, "reached": reached})
    return {
        "bundle": path.name.partition(".")[0],
        "core": total,
        "chunks": len(counts),
        "tasks": tasks,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE")
    args = parser.parse_args(arguments)
    rows = [measure(path) for path in args.bundles]
    for row in rows:
        for name in ("used", "reached"):
            shares = np.array([task[name] for task in row["tasks"]]) / row["core"]
            print(row["bundle"], name, f"{shares.min():.3f} {shares.mean():.3f} {shares.max():.3f}")
    print(write_result(CODING, "core_use", provenance("what tasks need of the core"), rows))


if __name__ == "__main__":
    main()
