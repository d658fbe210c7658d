"""Costs of the format, in bytes and to read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.coding.chunk_sizes import SIZES
from benchmarks.common import CODING, SPEED
from benchmarks.pages import Table
from benchmarks.reports.tables import table

__all__ = ["SECTIONS", "TABLES", "every_size"]

Row = Mapping[str, Any]
_COUNTS = ("bytes", "shared", "shared_chunks")


def _rows() -> Sequence[Row]:
    rows: Sequence[Row] = json.loads((CODING / "chunk_sizes.json").read_text())["rows"]
    return rows


def _more(size: int, than: int) -> str:
    return f"{100 * (size / than - 1):+.2f} %"


def _apart() -> str:
    parts = {r["bundle"]: r for r in json.loads((CODING / "apart.json").read_text())["rows"]}
    lines = []
    for row in _rows():
        cells = [row["bundle"], f"{row['format_2']:,}", f"{row['apart']:,}"]
        cells.append(_more(row["apart"], row["format_2"]))
        part = parts.get(row["bundle"])
        for name in ("heads", "manifests"):
            cells.append(f"{part['apart'][name] / (part['tasks'] + 1):.0f}" if part else "-")
        lines.append(cells)
    heads = ["bundle", "one file, bytes", "split, bytes", "more"]
    return table([*heads, "head, bytes a file", "manifest, bytes a file"], lines)


def every_size() -> Table:
    """Return the bytes of each bundle and of its shared stream at each size of a chunk."""
    lines = [
        [
            row["bundle"],
            name,
            *(row[name].get(key, "") for key in _COUNTS),
            _more(row[name]["bytes"], row["whole"]["bytes"]),
        ]
        for row in _rows()
        for name in SIZES
    ]
    return ["bundle", "chunk", *_COUNTS, "more"], lines


def _readers() -> str:
    result = json.loads((SPEED / "readers.json").read_text())
    speeds = result["million_integers_a_second"]
    lines = [
        [
            row["reader"],
            f"{row['process_ms']:.1f}",
            f"{row['wall_ms']:.1f}",
            f"{row['memory_mb']:.1f}",
            f"{speeds[who]:.0f}" if kind == "verify" else "",
        ]
        for row in result["rows"]
        for who, _, kind in [row["reader"].partition(" ")]
    ]
    integers = result["integers"]
    return (
        f"`{result['task']}` of `{result['bundle']}`, {integers['task']:,} integers with the core, "
        f"{integers['bundle']:,} in the\nbundle; the least of {result['times']} runs.\n\n"
        + table(
            ["reader", "ms of the process", "ms on the clock", "MB", "million integers a second"],
            lines,
        )
    )


def _core_use() -> str:
    lines = []
    for row in json.loads((CODING / "core_use.json").read_text())["rows"]:
        cells = [row["bundle"], f"{row['core']:,}", str(row["chunks"])]
        for name in ("used", "reached"):
            shares = [100 * task[name] / row["core"] for task in row["tasks"]]
            mean = sum(shares) / len(shares)
            cells.append(f"{mean:.1f} % ({min(shares):.1f} to {max(shares):.1f})")
        lines.append(cells)
    head = ["bundle", "integers of the core", "chunks", "a task uses", "a reader has to decode"]
    return table(head, lines)


def _remote() -> str:
    result = json.loads((SPEED / "remote.json").read_text())
    lines = [
        [
            row["store"],
            row["kind"],
            str(row["tasks"]),
            f"{row['needed']:,}",
            f"{row['wire']:,}",
            f"{row['ratio']:.3f}",
            f"{row['again_wire']:,}",
        ]
        for row in result["rows"]
    ]
    heads = ["store", "bundle", "tasks", "core + tasks", "over the wire", "ratio", "again"]
    return f"`{result['bundle']}`, {result['size']:,} bytes; all columns in bytes.\n\n" + table(
        heads, lines
    )


SECTIONS = {
    "apart": _apart,
    "readers": _readers,
    "core use": _core_use,
    "remote": _remote,
}
TABLES = {"chunks.csv": every_size}
