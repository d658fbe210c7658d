"""Sizes of merges without a limit, and the drop of the score that is expected at other limits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common import QUALITY
from benchmarks.pages import Table
from benchmarks.reports.tables import MISSING, table, wrapped

__all__ = ["SECTIONS", "TABLES", "default"]

Row = Mapping[str, Any]


def default() -> str:
    """Return the merged sets, and the law of the drop of the score, from default.json."""
    file = QUALITY / "default.json"
    if not file.is_file():
        return MISSING
    result = json.loads(file.read_text(encoding="utf-8"))
    merged = _merged([row for row in result["merges"] if "/" not in row["name"]])
    return f"{merged}\n{_read_between(result['laws'])}"


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
    mine, before = row["default"], row["before"]
    return [
        f"{mine['size_pct']:.1f} %",
        f"{mine['worst_error']:.3f}",
        f"{mine['mean_error']:.3f}",
        "refused" if "refused" in before else f"{before['worst_error']:.3f}",
    ]


def _merged(rows: Sequence[Row]) -> str:
    heads = ["adapters", "bundle", "of fp16", "worst error", "mean", "worst at `--size 10%`"]
    found = [row for row in rows if "refused" not in row]
    return table(heads, [[r["name"], f"{r['default']['bytes']:,}", *_numbers(r)] for r in found])


def _read_between(laws: Sequence[Row]) -> str:
    """Return the law that the readings follow."""
    first, *others = laws
    low, high = first["powers"]
    said = ", ".join(f"{x['power']:g} up to {x['up_to_error']:g}" for x in others)
    return wrapped(
        f"At the scored sizes the drop of the score follows c error^p, with p = {first['power']:g} "
        f"[{low:g}, {high:g}] from all sets at errors up to {first['up_to_error']:g} (with fewer "
        f"rows p is {said}) and c of each recipe. [Readings](table:default-readings.csv) at "
        "other limits have the widest range that p and c allow."
    )


def readings() -> Table:
    """Return the size and the drop at some limits, read between the scored sizes."""
    keys = ("recipe", "limit", "size_pct", "drop_pct")
    rows = [
        [*(f"{row[key]:.4g}" if key != "recipe" else row[key] for key in keys), *row["drop_range"]]
        for row in _result()["readings"]
    ]
    return [*keys, "drop_low_pct", "drop_high_pct"], rows


SECTIONS = {"default": default}
TABLES = {"default.csv": merges, "default-readings.csv": readings}
