"""Sizes and errors of merges without a limit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common import QUALITY
from benchmarks.pages import Table
from benchmarks.reports.tables import MISSING, table

__all__ = ["SECTIONS", "TABLES", "default"]

Row = Mapping[str, Any]


def default() -> str:
    """Return the sets and the redundant ones, from default.json."""
    file = QUALITY / "default.json"
    if not file.is_file():
        return MISSING
    return _merged([row for row in _result()["merges"] if "/" not in row["name"]])


def _result() -> Any:
    return json.loads((QUALITY / "default.json").read_text(encoding="utf-8"))


def merges() -> Table:
    """Return every merge without a limit, those of adapters by other people among them."""
    rows = [
        [row["name"], "", "", "", "", "", "", row["refused"]]
        if "refused" in row
        else [row["name"], row["fp16_bytes"], row["default"]["bytes"], *_numbers(row), ""]
        for row in _result()["merges"]
    ]
    heads = ["adapters", "fp16_bytes", "bytes", "of fp16", "worst error", "mean error"]
    return [*heads, "worst error at 10%", "refused"], rows


def _numbers(row: Row) -> list[str]:
    mine, beside = row["default"], row["beside"]
    return [
        f"{mine['size_pct']:.1f} %",
        f"{mine['worst_error']:.3f}",
        f"{mine['mean_error']:.3f}",
        "refused" if "refused" in beside else f"{beside['worst_error']:.3f}",
    ]


def _merged(rows: Sequence[Row]) -> str:
    heads = ["adapters", "bundle", "of fp16", "worst error", "mean", "worst at `--size 10%`"]
    found = [row for row in rows if "refused" not in row]
    return table(heads, [[r["name"], f"{r['default']['bytes']:,}", *_numbers(r)] for r in found])


SECTIONS = {"default": default}
TABLES = {"default.csv": merges}
