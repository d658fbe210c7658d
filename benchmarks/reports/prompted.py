"""Rivals that got prompts, beside hydraopt's own bundles on the same test rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import QUALITY
from benchmarks.pages import Table
from benchmarks.quality.sets import METHOD, REFIT, WITH_PROMPTS
from benchmarks.reports.bdrate import prompts_told
from benchmarks.reports.scores import (
    PROMPTED,
    bundle_key,
    drops,
    result_files,
    row_of,
    scored_tasks,
)
from benchmarks.reports.tables import MISSING, changed, table, titled, wrapped

__all__ = ["HEAD", "SECTIONS", "TABLES", "beside", "line", "prompted"]

_OURS = (METHOD, *WITH_PROMPTS)
HEAD = [
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


def beside(result: Result, others: Iterable[tuple[str, Result]]) -> Iterator[Row]:
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


def line(row: Row) -> list[str]:
    """What stands under HEAD for a row of the headline, hydraopt's own in bold."""
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


def _as_asked(result: Result) -> Row:
    """Return the note of a method that was given the rivals' prompts."""
    asked = result["prompts"]
    judge = {"count": asked["a_task_at_most"], "split": asked["of"]}
    return {"options": {"judge": {**judge, "learned": asked.get("learned")}}}


def _about(name: str, result: Result) -> str:
    asked = result["prompts"]
    more = f", and {asked['learned']} training rows" if asked.get("learned") else ""
    tasks = ", ".join(task["adapter"] for task in result["tasks"])
    rows = sum(task["rows"] for task in result["tasks"])
    return wrapped(
        f"`{result['set']}`: {tasks}; {rows:,} test rows. Rivals learned from at most "
        f"{asked['a_task_at_most']} {asked['of']} rows of a task{more} (`{name}`)."
    )


def _found(folder: Path) -> Iterator[tuple[str, Result, list[Row]]]:
    """Yield every result of the plan with its rows and hydraopt's, the largest first."""
    found = list(result_files(folder))
    for name, result in found:
        if result["plan"] != PROMPTED or not result["tasks"]:
            continue
        tasks = len(result["tasks"])  # of a run under way some rows have fewer
        whole = [x for x in result["methods"] if len(scored_tasks(result, x)) == tasks]
        theirs = (row_of(name, result, x) for x in whole if drops(result, x))
        ours = beside(result, (x for x in found if x[1]["plan"] != PROMPTED))
        yield name, result, sorted([*theirs, *ours], key=lambda row: -row["size_pct"])


def prompted(folder: Path = QUALITY) -> str:
    """Return the rivals' rows, and hydraopt's with a refit."""
    parts = []
    for name, result, rows in _found(folder):
        shown = [
            line({**row, "prompts": ""})[:-1]
            for row in rows
            if row["method"] not in _OURS
            or (row["method"] == REFIT and row["prompts"] == prompts_told(_as_asked(result)))
        ]
        parts.append(f"{_about(name, result)}\n{table(HEAD[:-1], shown)}")
    return "\n".join(parts) or MISSING


def every_row(folder: Path = QUALITY) -> Table:
    """Return all rows, with the result of whose tasks they are."""
    rows = [
        [name, *(cell.strip("*`") for cell in line(row))]
        for name, _, found in _found(folder)
        for row in found
    ]
    return ["test rows of", *HEAD], rows


SECTIONS = {PROMPTED: prompted}
TABLES = {"prompted.csv": every_row}
