"""Costs of a folder with an index."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from benchmarks.common import SPEED
from benchmarks.pages import Table
from benchmarks.reports.tables import table, wrapped

__all__ = ["SECTIONS", "TABLES", "added", "block", "fetched"]


Row = dict[str, Any]


def block(result: Row) -> str:
    """Return the table of a result of ``python -m benchmarks.speed folders``."""
    return "\n".join(_opened(_of("folder", result["rows"])))


def _opened(rows: Sequence[Row]) -> tuple[str, str]:
    about = wrapped(
        "Copies of the examples' tasks under other names. CPU seconds on a machine that others "
        "used as well; bytes are those that the process reads and writes."
    )
    lines = [
        [
            f"{row['tasks']:,}",
            f"{row['index']:,}",
            f"{row['open']['seconds']:.3f}",
            f"{row['list']['seconds']:.3f}",
            f"{row['open_without']['seconds']:.2f}",
            f"{row['task']['seconds']:.3f}",
            f"{row['task']['read']:,}",
        ]
        for row in rows
    ]
    heads = ["tasks", "index, bytes", "open, s", "list, s", "open without index, s"]
    return about, table([*heads, "open for one task, s", "bytes read"], lines)


def added(rows: Sequence[Row]) -> Table:
    """Return the costs of adding one task, and of the start and first view of a served report."""
    pairs = _of("folder", rows), _of("explore", rows)
    lines = [
        [
            row["tasks"],
            f"{row['add']['seconds']:.2f}",
            row["add"]["read"] - row["index"],
            row["add"]["written"] - row["index"],
            f"{shown['start_cpu']:.1f}",
            f"{shown['drawn_ms'] / 1000:.2f}" if "drawn_ms" in shown else "",
        ]
        for row, shown in zip(*pairs, strict=True)
    ]
    heads = ["tasks", "add, s", "bytes read", "bytes written", "page starts, s", "first view, s"]
    return heads, lines


def fetched(rows: Sequence[Row]) -> Table:
    """Return the requests and bytes of opening a folder at an address and using one task."""
    lines = [
        [
            row["store"],
            row["tasks"],
            row["open"]["requests"],
            row["open"]["wire"],
            row["task"]["requests"],
            row["open"]["wire"] + row["task"]["wire"] - row["needed"],
        ]
        for row in _of("store", rows)
    ]
    heads = ["store", "tasks", "requests to open", "bytes", "requests for a task"]
    return [*heads, "bytes of index, listing and headers"], lines


def _result() -> dict[str, Any]:
    result: dict[str, Any] = json.loads((SPEED / "folders.json").read_text(encoding="utf-8"))
    return result


def _of(what: str, rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["what"] == what]


SECTIONS = {"folders": lambda: block(_result())}
TABLES = {
    "folders-added.csv": lambda: added(_result()["rows"]),
    "folders-fetched.csv": lambda: fetched(_result()["rows"]),
}
