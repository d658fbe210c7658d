"""Merges to a size with prompts, beside merges without them, on the same test rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import QUALITY
from benchmarks.pages import Table
from benchmarks.quality.sets import CURVES, METHOD, REFIT_ALONE, WITH_PROMPTS
from benchmarks.reports.bdrate import prompts_told
from benchmarks.reports.scores import bundle_key, result_files, row_of, scored_tasks
from benchmarks.reports.tables import MISSING, changed, table, titled

__all__ = ["SECTIONS", "TABLES", "every_way", "ways"]

_PART_WAY = "part-way"
"""Name of results of an earlier version, which divided a size by measured harm."""
_OURS = (METHOD, *WITH_PROMPTS)
_HEAD = [
    "method",
    "of fp16",
    "mean drop, %",
    "worst",
    "answers that change",
    "KL an answer",
    "result",
]

Result = Mapping[str, Any]
Row = Mapping[str, Any]


def _asked(task: Result) -> tuple[Any, ...]:
    return task["rows"], task["sha256"], task["metric"]


def _beside(result: Result, others: Iterable[tuple[str, Result]]) -> Iterator[Row]:
    """The rows of hydraopt's bundles in other results, over the tasks of this one, where all these
    were scored on the same rows; a bundle that two results have, once."""
    wanted = {task["adapter"]: _asked(task) for task in result["tasks"]}
    seen = set()
    for name, other in others:
        if other["set"] != result["set"] or other["products"] != result["products"]:
            continue
        for label, method in other["methods"].items():
            mine = [x for x in scored_tasks(other, label) if x["adapter"] in wanted]
            same = {x["adapter"]: _asked(x) for x in mine} == wanted
            if method["method"] not in _OURS or not same:
                continue
            row = row_of(name, {**other, "closer": {}, "tasks": mine}, label)
            if bundle_key(row) not in seen:
                seen.add(bundle_key(row))
                yield {**row, "prompts": prompts_told(method)}


def _line(row: Row) -> list[str]:
    """What stands under _HEAD for a row of the headline, hydraopt's own in bold."""
    low, high = row["mean_drop_interval"]
    title, prompts = titled(row), row.get("prompts")
    title = f"**{title}**" if row["method"] in _OURS else title
    return [
        f"{title}, {prompts}" if prompts else title,
        f"{row['size_pct']:.1f} %",
        f"{row['mean_drop_pct']:.2f} [{low:.2f}, {high:.2f}]",
        f"{row['worst_drop_pct']:.1f} ({row['worst_task']})",
        changed(row),
        "-" if row["kl_answer"] is None else f"{row['kl_answer']:.3f}",
        f"`{Path(row['results'][0]).name}`",
    ]


def _is_shown(name: str, result: Any) -> bool:
    part_way = name.startswith(f"{result['recipe']}-{_PART_WAY}") and result["plan"] == "harm"
    return bool(result["tasks"]) and (part_way or result["plan"] == REFIT_ALONE)


def _groups(folder: Path) -> Iterator[tuple[str, Any, list[Row]]]:
    """Yield (file, result, all rows of hydraopt over its tasks at its sizes), no prompts first."""
    found = list(result_files(folder))
    for name, result in found:
        if _is_shown(name, result):
            sizes = {method["setting"] for method in result["methods"].values()}
            rows = [row for row in _beside(result, found) if row["setting"] in sizes]
            rows.sort(key=lambda row: (bool(row["prompts"]), -(row["changed_pct"] or 0)))
            yield name, result, rows


def ways(folder: Path = QUALITY) -> str:
    """Return the rows of each result, and the row without prompts that has most measured.

    Sizes that were only divided by harm are left out, because no merge does that any more.
    """
    lines = []
    for name, result, rows in _groups(folder):
        plain = [row for row in rows if row["method"] == METHOD][:1]
        others = (row for row in rows if row["method"] != CURVES and row not in plain)
        own = [row for row in others if Path(row["results"][0]).name == name]
        count = sum(task["rows"] for task in result["tasks"])
        about = [f"`{result['set']}`, {len(result['tasks'])}", f"{count:,}"]
        for row in (*plain, *own):
            method, _, *cells, _ = _line({**row, "prompts": ""})
            lines.append([*about, method, *cells])
    method, _, *heads, _ = _HEAD
    return table(["set, tasks", "test rows", method, *heads], lines) if lines else MISSING


def every_way(folder: Path = QUALITY) -> Table:
    """Return all rows of hydraopt on the same test rows."""
    rows = [
        [name, result["set"], len(result["tasks"]), *(cell.strip("*`") for cell in _line(row))]
        for name, result, found in _groups(folder)
        for row in found
    ]
    return ["test rows of", "set", "tasks", *_HEAD], rows


SECTIONS = {"ways": ways}
TABLES = {"ways.csv": every_way}
