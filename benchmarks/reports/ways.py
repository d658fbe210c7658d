"""Merges to a size with prompts, beside merges without them, on the same test rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import QUALITY
from benchmarks.pages import Table
from benchmarks.quality.sets import CURVES, METHOD, REFIT_ALONE
from benchmarks.reports.prompted import HEAD, beside, line
from benchmarks.reports.scores import result_files
from benchmarks.reports.tables import MISSING, table

__all__ = ["SECTIONS", "TABLES", "every_way", "ways"]

_PART_WAY = "part-way"
"""Name of results of an earlier version, which divided a size by measured harm."""

Row = Mapping[str, Any]


def _is_shown(name: str, result: Any) -> bool:
    part_way = name.startswith(f"{result['recipe']}-{_PART_WAY}") and result["plan"] == "harm"
    return bool(result["tasks"]) and (part_way or result["plan"] == REFIT_ALONE)


def _groups(folder: Path) -> Iterator[tuple[str, Any, list[Row]]]:
    """Yield (file, result, all rows of hydraopt over its tasks at its sizes), no prompts first."""
    found = list(result_files(folder))
    for name, result in found:
        if _is_shown(name, result):
            sizes = {method["setting"] for method in result["methods"].values()}
            rows = [row for row in beside(result, found) if row["setting"] in sizes]
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
            method, _, *cells, _ = line({**row, "prompts": ""})
            lines.append([*about, method, *cells])
    method, _, *heads, _ = HEAD
    return table(["set, tasks", "test rows", method, *heads], lines) if lines else MISSING


def every_way(folder: Path = QUALITY) -> Table:
    """Return all rows of hydraopt on the same test rows."""
    rows = [
        [name, result["set"], len(result["tasks"]), *(cell.strip("*`") for cell in line(row))]
        for name, result, found in _groups(folder)
        for row in found
    ]
    return ["test rows of", "set", "tasks", *HEAD], rows


SECTIONS = {"ways": ways}
TABLES = {"ways.csv": every_way}
