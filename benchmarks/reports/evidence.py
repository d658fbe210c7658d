"""Scores of the sets: drop against size, and drops of tasks and languages with --fair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.pages import Table
from benchmarks.quality.sets import METHOD, SETS
from benchmarks.reports import pictures
from benchmarks.reports.scores import dropped, grouped, headline, result_files
from benchmarks.reports.tables import CHANGED, changed, table

__all__ = ["SECTIONS", "TABLES", "draw", "results"]

_SIZES = ("20%", "default", "10%", "5%", "2%")
"""Sizes of the page; scores.csv has all."""
_FAIR = ("5%", "2%")

Result = Mapping[str, Any]


def results(plan: str) -> dict[str, Result]:
    """Return the results of a plan by set."""
    return {r["set"]: r for _, r in result_files() if r["plan"] == plan and r["tasks"]}


def summary() -> str:
    """Return one row for each set and size, over all tasks of the set."""
    lines = []
    found = headline()["sets"]
    for name in SETS:
        entry = found[name]
        for row in entry["rows"]:
            whole = row["method"] == METHOD and row["tasks"] == entry["n"]
            if whole and row["setting"] in _SIZES:
                low, high = row["mean_drop_interval"]
                lines.append(
                    [
                        f"`{name}`",
                        f"{row['size_pct']:.1f} %",
                        f"{row['relative_error']:.3f}",
                        f"{row['kl']:.2g}",
                        f"{row['mean_drop_pct']:+.1f} % [{low:+.1f}, {high:+.1f}]",
                        f"{row['worst_drop_pct']:+.1f} % ({row['worst_task']})",
                        changed(row),
                    ]
                )
    heads = ["set", "of fp16", "error", "KL", "mean drop", "worst task"]
    return table([*heads, CHANGED], lines)


def fairness() -> Table:
    """Return mean drops of the first set by task, plain and with --fair, and their spreads."""
    found = []
    for plan in ("sizes", "fair"):
        result = results(plan)[SETS[0]]
        found += [(result, x) for x, m in result["methods"].items() if m["setting"] in _FAIR]
    titles = [f"{r['methods'][x]['method']} {r['methods'][x]['setting']}" for r, x in found]
    by_task, by_language = (
        [grouped(result, dropped(result, label), key) for result, label in found]
        for key in ("task", "language")
    )
    rows = [[task, *(f"{column[task]:.1f}" for column in by_task)] for task in by_task[0]]
    rows.append(["best to worst task", *_spreads(by_task)])
    rows.append(["best to worst language", *_spreads(by_language)])
    return ["mean drop, %", *titles], rows


def _spreads(columns: Sequence[Mapping[str, float]]) -> list[str]:
    return [f"{max(column.values()) - min(column.values()):.1f}" for column in columns]


SECTIONS = {"evidence": summary}
TABLES = {"fair.csv": fairness}


def draw() -> None:
    """Draw drop against size, a panel for each set."""
    pictures.draw_curves()
