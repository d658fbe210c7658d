"""What format 2 costs, in bytes and to read: the tables of docs/evidence/format.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.coding.chunk_sizes import SIZES
from benchmarks.common import CODING, SPEED
from benchmarks.reports.tables import table

__all__ = ["SECTIONS"]

Row = Mapping[str, Any]


def _rows() -> Sequence[Row]:
    rows: Sequence[Row] = json.loads((CODING / "chunk_sizes.json").read_text())["rows"]
    return rows


def _more(size: int, than: int) -> str:
    return f"{100 * (size / than - 1):+.2f} %"


def _formats() -> str:
    head = ["bundle", "format 1, bytes", "format 2, bytes", "more", "apart, bytes", "more"]
    lines = [
        [
            row["bundle"],
            f"{row['format_1']:,}",
            f"{row['format_2']:,}",
            _more(row["format_2"], row["format_1"]),
            f"{row['apart']:,}",
            _more(row["apart"], row["format_2"]),
        ]
        for row in _rows()
    ]
    return table(head, lines)


def _apart() -> str:
    rows = json.loads((CODING / "apart.json").read_text())["rows"]
    head = [
        "bundle",
        "heads, bytes a file",
        "more",
        "manifests, bytes a file",
        "more",
        "zlib saves",
    ]
    lines = []
    for row in rows:
        whole, apart = row["whole"], row["apart"]
        cells = [row["bundle"]]
        for part in ("heads", "manifests"):
            cells.append(f"{apart[part] / (row['tasks'] + 1):.0f}")
            cells.append(f"+{100 * (apart[part] - whole[part]) / whole['bytes']:.2f} %")
        cells.append(f"{apart['manifests'] - apart['least']} bytes")
        lines.append(cells)
    return table(head, lines)


def _chunks() -> str:
    sizes = [name for name in SIZES if name != "whole"]
    lines = [
        [row["bundle"], *(_more(row[x]["bytes"], row["whole"]["bytes"]) for x in sizes)]
        for row in _rows()
    ]
    return table(["bundle", *sizes], lines)


def _shared() -> str:
    sizes = [name for name in SIZES if name != "whole"]
    lines = []
    for row in _rows():
        whole = row["whole"]["shared"]
        cells = [
            f"{_more(row[x]['shared'], whole)} ({row[x]['shared_chunks']})" if whole else "-"
            for x in sizes
        ]
        lines.append([row["bundle"], *cells])
    return table(["bundle", *sizes], lines)


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
    "formats": _formats,
    "apart": _apart,
    "chunks": _chunks,
    "shared chunks": _shared,
    "readers": _readers,
    "core use": _core_use,
    "remote": _remote,
}
