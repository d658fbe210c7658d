"""All scores as CSV files: one row for each bundle, and one for each task of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.common import QUALITY
from benchmarks.pages import Table
from benchmarks.quality.sets import METHOD
from benchmarks.reports.scores import every_row, result_files, scored_tasks

__all__ = ["TABLES", "bundles", "tasks"]

_BUNDLE = (
    "method",
    "setting",
    "tasks",
    "test_rows",
    "bytes",
    "size_pct",
    "relative_error",
    "guessed_error",
    "kl",
    "kl_answer",
    "top1_agreement_pct",
    "changed_pct",
    "mean_recovery_pct",
    "worst_recovery_pct",
    "mean_drop_pct",
    "worst_drop_pct",
    "worst_task",
)
_TASK = ("adapter", "task", "language", "metric", "rows")
_OTHERS = ("rivals", "map")
"""Plans that compare methods: their rows are in the table of bundles alone."""


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def bundles(folder: Path = QUALITY) -> Table:
    """Return one row for each scored bundle, rivals included; drops in percent of the score."""
    rows = [
        [
            name,
            *(_cell(row[key]) for key in _BUNDLE),
            *(_cell(end) for end in row["mean_drop_interval"]),
            " ".join(Path(file).name for file in row["results"]),
        ]
        for name, entry in every_row(folder).items()
        for row in entry["rows"]
    ]
    return ["set", *_BUNDLE, "mean_drop_low_pct", "mean_drop_high_pct", "results"], rows


def tasks(folder: Path = QUALITY) -> Table:
    """Return one row for each task and bundle of hydraopt; scores and differences in points."""
    rows = []
    for name, result in result_files(folder):
        for label, method in result["methods"].items():
            ours = method["method"].startswith((METHOD, "see-"))
            if result["plan"] in _OTHERS or not ours:
                continue
            for task in scored_tasks(result, label):
                found, metric = task["results"], task["metric"]
                now, change = found[label], found[label]["difference"][metric]
                scores = [found[x]["scores"].get(metric) for x in ("base", "original")]
                numbers = [*scores, change["difference"], change.get("low"), change.get("high")]
                numbers += [now.get("changed_pct"), now["kl"], now.get("kl_answer")]
                about = [result["set"], method["method"], method["setting"]]
                about += [_cell(method["size_pct"]), *(str(task[key]) for key in _TASK)]
                rows.append([*about, *map(_cell, numbers), name])
    numbers = ["base", "original", "difference", "low", "high", "changed_pct", "kl", "kl_answer"]
    return ["set", "method", "setting", "size_pct", *_TASK, *numbers, "result"], rows


TABLES = {"scores.csv": bundles, "tasks.csv": tasks}
