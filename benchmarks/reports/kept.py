"""Limits on harm, checked on rows that the merges have not seen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.common import QUALITY
from benchmarks.pages import Table
from benchmarks.quality.sets import set_of
from benchmarks.reports.tables import table

__all__ = ["SECTIONS", "TABLES", "limits", "tasks"]

Row = Mapping[str, Any]


def _results() -> Iterator[tuple[str, Mapping[str, Any]]]:
    for path in sorted(QUALITY.glob("*.harm-kept.json")):
        yield path.name, json.loads(path.read_text(encoding="utf-8"))


def limits() -> str:
    """Return one row for each set and limit; of two merges to one limit, the smaller file."""
    lines = []
    found: dict[tuple[str, str], tuple[Row, Row]] = {}
    for _, result in _results():
        for row in result["rows"]:
            key = set_of(result["set"], result["adapters"]), row["limit"]
            if key not in found or row["bytes"] < found[key][1]["bytes"]:
                found[key] = result, row
    for (name, _), (result, row) in found.items():
        by_task: Mapping[str, Row] = row["by_task"]
        worst = max(by_task, key=lambda name: by_task[name]["changed_pct"])
        lines.append(
            [
                f"`{name}`",
                row["limit"],
                str(result["prompts"]),
                f"{row['size_pct']:.1f} %",
                f"{row['tasks_kept']} of {row['tasks']}",
                str(row["tasks_broken_for_sure"]),
                f"{row['changed_pct']:.2f} %",
                f"{by_task[worst]['changed_pct']:.1f} % ({worst})",
            ]
        )
    for limit in sorted({row["limit"] for _, row in found.values()}):
        of = [row for _, row in found.values() if row["limit"] == limit]
        kept, count, broken = (
            sum(row[key] for row in of) for key in ("tasks_kept", "tasks", "tasks_broken_for_sure")
        )
        lines.append(["all", limit, "", "", f"{kept} of {count}", str(broken), "", ""])
    heads = ["set", "limit", "prompts per task", "of fp16", "kept", "surely broken", "changed"]
    return table([*heads, "worst task"], lines)


def tasks() -> Table:
    """Return one row for each task and limit."""
    rows = []
    for name, result in _results():
        of = set_of(result["set"], result["adapters"])
        for row in result["rows"]:
            for task, found in sorted(row["by_task"].items()):
                low, high = found["interval_pct"]
                cells = [of, task, row["limit"], result["prompts"], row["bytes"]]
                cells += [found["changed"], found["answers"], f"{low:.2f}", f"{high:.2f}"]
                rows.append([*cells, name])
    heads = ["set", "adapter", "limit", "prompts_at_most", "bytes", "changed", "answers"]
    return [*heads, "low_pct", "high_pct", "result"], rows


SECTIONS = {"limits kept": limits}
TABLES = {"limits.csv": tasks}
