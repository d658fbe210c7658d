"""Limits on harm, checked on rows that the merges have not seen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.common import QUALITY
from benchmarks.pages import Table
from benchmarks.reports.tables import MISSING, table

__all__ = ["SECTIONS", "TABLES", "limits", "tasks"]

Row = Mapping[str, Any]


def _results() -> Iterator[tuple[Mapping[str, Any], str, Sequence[Row]]]:
    """Yield head, limit and rows of each limit of each set, by rising limit."""
    for path in sorted(QUALITY.glob("*.harm-kept.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        asked = {row["limit"] for row in result["rows"]}
        for limit in sorted(asked, key=lambda text: float(text.rstrip("%"))):
            yield result, limit, [row for row in result["rows"] if row["limit"] == limit]


def limits() -> str:
    """Return one row for each set and limit."""
    lines = []
    for result, limit, rows in _results():
        worst = max(rows, key=lambda row: row["changed_pct"])
        some = result.get("only", "*")
        lines.append(
            [
                f"`{result['set']}`" + (f", `{some}`" if some != "*" else ""),
                limit,
                str(result["prompts"]),
                f"{100 * rows[0]['share']:.1f} %",
                f"{sum(row['kept'] for row in rows)} of {len(rows)}",
                str(sum(row["surely_broken"] for row in rows)),
                f"{sum(row['changed_pct'] for row in rows) / len(rows):.2f} %",
                f"{worst['changed_pct']:.1f} % ({worst['adapter']})",
            ]
        )
    heads = ["set", "limit", "prompts per task", "of fp16", "kept", "surely broken", "changed"]
    return table([*heads, "worst task"], lines) if lines else MISSING


def tasks() -> Table:
    """Return one row for each task and limit."""
    lines = []
    for result, limit, rows in _results():
        for row in rows:
            low, high = row["interval_pct"]
            about = [result["set"], row["adapter"], limit, result["prompts"], row["bytes"]]
            lines.append([*about, row["changed"], row["answers"], f"{low:.2f}", f"{high:.2f}"])
    heads = ["set", "adapter", "limit", "prompts", "bytes", "changed", "answers"]
    return [*heads, "low_pct", "high_pct"], lines


SECTIONS = {"limits kept": limits}
TABLES = {"limits.csv": tasks}
