"""Tables of adapters by other people: those with heads, embeddings and other tensors, and all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from benchmarks.common import QUALITY
from benchmarks.pages import Table
from benchmarks.reports.tables import table

__all__ = ["SECTIONS", "TABLES"]

Row = Mapping[str, Any]


def _result() -> list[Row]:
    rows: list[Row] = json.loads((QUALITY / "real.json").read_text(encoding="utf-8"))["rows"]
    return rows


def _error(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


_HEADS = ("adapter", "fp16 bytes", "share of tensors", "bit by bit", "coded", "error of modules")


def _real() -> str:
    """Return the rows of adapters with tensors, and the refused ones; real.csv has all."""
    rows = _result()
    refused = [f"{row['repo']} ({row['refused']})" for row in rows if "refused" in row]
    lines = [_line(row) for row in rows if row.get("tensor_numbers")]
    return f"{table([*_HEADS, 'error of tensors'], lines)}\nRefused: {', '.join(refused)}.\n"


def _line(row: Row) -> list[str]:
    before, after = row["exact"], row["coded"]
    least = before.get("least_bytes")
    return [
        row["repo"],
        f"{row['fp16_bytes']:,}",
        f"{100 * row['tensor_numbers'] / row['numbers']:.0f} %",
        f"refused; at least {least:,}"
        if least
        else f"{before['bytes']:,} ({_error(before['error'])})",
        f"{after['bytes']:,}",
        _error(after["error"]),
        _error(after["tensors_error"]),
    ]


def _every_real() -> Table:
    """Return the rows of all adapters that are not refused."""
    rows = [row for row in _result() if "refused" not in row]
    return [*_HEADS, "error of tensors"], [_line(row) for row in rows]


SECTIONS = {"real": _real}
TABLES = {"real.csv": _every_real}
