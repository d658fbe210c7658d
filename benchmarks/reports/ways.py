"""What a merge with prompts and a size does by default, and a refit alone, beside other ways on the
same test rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.common import QUALITY
from benchmarks.reports.prompted import HEAD, beside, line
from benchmarks.reports.scores import result_files
from benchmarks.reports.tables import MISSING, table, wrapped

__all__ = ["PART_WAY", "SECTIONS", "ways"]

PART_WAY = "part-way"
"""Results of this name are of sizes that were shared out half the way to what prompts say."""
_ALONE = "refit-alone"
"""A plan of a few tasks, which the other ways have as well."""


def _is_shown(name: str, result: Any) -> bool:
    """Whether a result has a table: those of PART_WAY with refits, and refits alone."""
    part_way = name.startswith(f"{result['recipe']}-{PART_WAY}") and result["plan"] == "harm"
    return bool(result["tasks"]) and (part_way or result["plan"] == _ALONE)


def ways(folder: Path = QUALITY) -> str:
    """For each result that has a table, all rows of hydraopt at its sizes over its tasks."""
    parts, found = [], list(result_files(folder))
    for name, result in found:
        if not _is_shown(name, result):
            continue
        sizes = {method["setting"] for method in result["methods"].values()}
        rows = [row for row in beside(result, found) if row["setting"] in sizes]
        # Without prompts first; the rest in the order of the answers that change.
        rows.sort(key=lambda row: (bool(row["prompts"]), -(row["changed_pct"] or 0)))
        tasks = ", ".join(task["adapter"] for task in result["tasks"])
        count = sum(task["rows"] for task in result["tasks"])
        about = wrapped(f"`{name}`: {tasks}; {count:,} test rows.")
        parts.append(f"{about}\n{table(HEAD, [line(row) for row in rows])}")
    return "\n".join(parts) or MISSING


SECTIONS = {"ways beside": ways}
