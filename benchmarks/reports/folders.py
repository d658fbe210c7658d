"""Costs of a folder with an index."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from benchmarks.common import SPEED
from benchmarks.reports.tables import table, wrapped

__all__ = ["SECTIONS", "block"]


Row = dict[str, Any]


def block(result: Row) -> str:
    """Return the tables of a result of ``python -m benchmarks.speed folders``."""
    of = {
        what: [row for row in result["rows"] if row["what"] == what]
        for what in ("folder", "store", "explore")
    }
    return "\n".join(
        [*_opened(of["folder"]), *_added(of["folder"], of["explore"]), *_fetched(of["store"])]
    )


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


def _added(rows: Sequence[Row], explored: Sequence[Row]) -> tuple[str, str]:
    about = wrapped(
        "Adding one task, without the bytes of the index, which is read and written too. "
        "Then the start of `hydraopt report --serve`, and its first view by the clock."
    )
    lines = [
        [
            f"{row['tasks']:,}",
            f"{row['add']['seconds']:.2f}",
            f"{row['add']['read'] - row['index']:,}",
            f"{row['add']['written'] - row['index']:,}",
            f"{shown['start_cpu']:.1f}",
            f"{shown['drawn_ms'] / 1000:.2f}" if "drawn_ms" in shown else "-",
        ]
        for row, shown in zip(rows, explored, strict=True)
    ]
    heads = ["tasks", "`add`, s", "bytes read", "bytes written", "page starts, s"]
    return about, table([*heads, "first view, s"], lines)


def _fetched(rows: Sequence[Row]) -> tuple[str, str]:
    about = wrapped(
        "Over the network with an empty cache, to open the folder and then to use one task. "
        "`more` is the index, the listing and the headers of the answers."
    )
    lines = [
        [
            row["store"],
            f"{row['tasks']:,}",
            str(row["open"]["requests"]),
            f"{row['open']['wire']:,}",
            str(row["task"]["requests"]),
            f"{row['open']['wire'] + row['task']['wire'] - row['needed']:,}",
        ]
        for row in rows
    ]
    heads = ["store", "tasks", "requests to open", "bytes", "requests for a task", "more"]
    return about, table(heads, lines)


def _result() -> dict[str, Any]:
    result: dict[str, Any] = json.loads((SPEED / "folders.json").read_text(encoding="utf-8"))
    return result


SECTIONS = {"folders": lambda: block(_result())}
