"""Whether limits of harm are kept on rows that the merges have not seen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common import QUALITY
from benchmarks.quality.sets import pinned, set_of
from benchmarks.reports.tables import table, wrapped

__all__ = ["SECTIONS"]

Row = Mapping[str, Any]


def _text(name: str, result: Mapping[str, Any]) -> str:
    rows: Sequence[Row] = result["rows"]
    first = rows[0]["by_task"]
    answers = sum(task["answers"] for task in first.values())
    count = len(result["adapters"])
    some = "" if count == len(pinned()[result["set"]][1]) else " by themselves"
    of = set_of(result["set"], result["adapters"])
    about = (
        f"`{of}`: {count} adapters merged{some}, {len(first)} scored "
        f"on {answers:,} test rows; {result['prompts']} prompts a task at most, of "
        f"{result['prompts_from']} rows (`{name}`). Kept: no more of a task's test rows change "
        "than the limit says. Broken for sure: the 95 % interval of the share lies above it."
    )
    heads = ["limit", "bytes", "of fp16", "kept", "broken for sure", "changed, %", "worst"]
    return "\n".join(
        (
            wrapped(about),
            table(heads, [_line(row) for row in rows]),
            table(["task", *(f"changed at {row['limit']}" for row in rows)], _by_task(rows)),
        )
    )


def _line(row: Row) -> list[str]:
    tasks: Mapping[str, Row] = row["by_task"]
    worst = max(tasks, key=lambda name: tasks[name]["changed_pct"])
    return [
        row["limit"],
        f"{row['bytes']:,}",
        f"{row['size_pct']:.1f} %",
        f"{row['tasks_kept']} of {row['tasks']}",
        str(row["tasks_broken_for_sure"]),
        f"{row['changed_pct']:.2f}",
        f"{tasks[worst]['changed_pct']:.1f} ({worst})",
    ]


def _by_task(rows: Sequence[Row]) -> list[list[str]]:
    """For each task, of every limit: how many answers change of how many, and the interval."""
    return [
        [name, *(_share(row["by_task"][name]) for row in rows)]
        for name in sorted(rows[0]["by_task"])
    ]


def _share(task: Row) -> str:
    low, high = task["interval_pct"]
    return f"{task['changed']} of {task['answers']} [{low:.1f}, {high:.1f}]"


def _kept() -> str:
    files = sorted(QUALITY.glob("*.harm-kept.json"))
    return "\n".join(_text(x.name, json.loads(x.read_text(encoding="utf-8"))) for x in files)


SECTIONS = {"limits kept": _kept}
