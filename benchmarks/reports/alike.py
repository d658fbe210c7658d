"""Bytes allocated by prompts, with and without --fair: the loss of tasks and languages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.common import QUALITY
from benchmarks.quality.sets import ALIKE
from benchmarks.reports.scores import dropped, grouped, row_of, scored_tasks
from benchmarks.reports.tables import table, titled, wrapped

__all__ = ["SECTIONS"]

Result = Mapping[str, Any]


def _changed(result: Result, label: str) -> dict[str, float]:
    """Return the percentage of changed answers by adapter."""
    return {x["adapter"]: x["results"][label]["changed_pct"] for x in scored_tasks(result, label)}


def _methods(file: str, result: Result) -> str:
    lines = []
    for label, method in result["methods"].items():
        row, changed = row_of(file, result, label), _changed(result, label)
        low, high = row["mean_drop_interval"]
        by_language = [
            grouped(result, values, "language").values()
            for values in (dropped(result, label), changed)
        ]
        lines.append(
            [
                titled(method),
                f"{row['mean_drop_pct']:.1f} [{low:.1f}, {high:.1f}]",
                f"{row['worst_drop_pct']:.1f} ({row['worst_task']})",
                f"{np.mean([*changed.values()]):.1f}",
                f"{max(changed.values()):.1f}",
                *(f"{max(values) - min(values):.0f}" for values in by_language),
            ]
        )
    heads = ["method", "mean drop, %", "worst", "answers changed, %", "worst"]
    return table([*heads, "drop, best to worst language", "changed, best to worst"], lines)


def _text(files: Sequence[str], result: Result) -> str:
    tasks: Sequence[Result] = result["tasks"]
    about = (
        f"{result['set']}: {len(tasks)} adapters merged by themselves, "
        f"{sum(x['rows'] for x in tasks):,} test rows, {result['prompts']} prompts per task "
        f"({', '.join(f'`{x}`' for x in files)})."
    )
    return wrapped(about) + "\n" + _methods(files[0], result)


def _joined(results: Mapping[str, Result]) -> Iterator[tuple[list[str], Result]]:
    """Yield results with their files; results of the same bundles on other tasks are joined."""
    parts: dict[str, list[str]] = {}
    for file, result in results.items():
        parts.setdefault(json.dumps(result["bundles"], sort_keys=True), []).append(file)
    for files in parts.values():
        tasks = [task for file in files for task in results[file]["tasks"]]
        yield files, {**results[files[0]], "tasks": tasks}


def _alike() -> str:
    files = sorted(QUALITY.glob(f"*.{ALIKE}.json"))
    results = {x.name: json.loads(x.read_text(encoding="utf-8")) for x in files}
    return "\n".join(_text(*joined) for joined in _joined(results))


SECTIONS = {"alike": _alike}
