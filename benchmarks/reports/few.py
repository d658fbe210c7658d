"""What refits gain from few real prompts with synthetic ones beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import QUALITY
from benchmarks.pages import Table
from benchmarks.reports.same_rows import LEAST
from benchmarks.reports.tables import MISSING, table

__all__ = ["SECTIONS", "TABLES", "every_task", "few"]

_HEAD = [
    "set, tasks, size", "real prompts", "synthetic", "tasks refitted", "answers changed",
    "KL, of no prompts", "gain",
]  # fmt: skip
_DRAWS: Final = 10_000
Row = Mapping[str, Any]


def _mean(row: Row) -> NDArray[np.float64]:
    """Return the share of changed answers and the KL, means over the rows of a task."""
    means: NDArray[np.float64] = np.maximum(np.mean(row["values"], axis=0), [0.0, LEAST])
    return means


def _factor(logs: Sequence[float]) -> str:
    """Return the geometric mean, with its 95 % interval by a bootstrap over the tasks."""
    every = np.array(logs, np.float64)
    drawn = np.random.default_rng(0).integers(0, len(every), (_DRAWS, len(every)))
    ends = np.quantile(every[drawn].mean(axis=1), [0.025, 0.975])
    low, high = np.exp(ends)
    return f"x {np.exp(every.mean()):.2f} [{low:.2f}, {high:.2f}]"


def _lines(about: str, tasks: Sequence[Mapping[int, Row]]) -> list[list[str]]:
    """Return a line for each number of real prompts. tasks: rows by that number."""
    logs = {
        count: [float(np.log(_mean(x[count])[1] / _mean(x[0])[1])) for x in tasks]
        for count in sorted(tasks[0])
    }
    most = sum(logs[max(logs)])
    lines = []
    for count, each in logs.items():
        rows = [x[count] for x in tasks]
        gain = [_factor(each), f"{100 * sum(each) / most:.0f} %"] if count and most else ["", ""]
        lines.append(
            [
                about,
                str(count),
                f"{sum(row['synthetic'] for row in rows) / len(rows):.0f}",
                f"{sum(row['refitted'] for row in rows)} of {len(rows)}",
                f"{100 * float(np.mean([_mean(x)[0] for x in rows])):.1f} %",
                *gain,
            ]
        )
    return lines


def _sets() -> Iterator[tuple[str, str, dict[str, dict[int, Row]]]]:
    """Yield set, size, and its rows by task and number of real prompts.

    Tasks without all numbers of the set are left out: the run has not come to them.
    """
    for file in sorted(QUALITY.glob("*.few-prompts.json")):
        result = json.loads(file.read_text())
        counts = {x["prompts"] for x in result["rows"]}
        by_task: dict[str, dict[int, Row]] = {}
        for row in result["rows"]:
            by_task.setdefault(row["adapter"], {})[row["prompts"]] = row
        yield (
            result["set"],
            result["size"],
            {name: x for name, x in by_task.items() if set(x) == counts},
        )


def few() -> str:
    """Return a row for each number of real prompts of each set, and of all sets together."""
    lines, every = [], list[dict[int, Row]]()
    for name, size, tasks in _sets():
        if tasks:
            lines += _lines(f"`{name}`, {len(tasks)}, {size}", [*tasks.values()])
            every += tasks.values()
    if len({tuple(sorted(x)) for x in every}) == 1 and len(lines) > len(every[0]):
        lines += _lines(f"all, {len(every)}", every)
    return table(_HEAD, lines) if lines else MISSING


def every_task() -> Table:
    """Return changed answers and KL of each task by its number of real prompts."""
    rows = [
        [name, task, size, count, row["synthetic"], row["refitted"], f"{changed:.4f}", f"{kl:.3g}"]
        for name, size, tasks in _sets()
        for task, by_count in tasks.items()
        for count, row in sorted(by_count.items())
        for changed, kl in [_mean(row)]
    ]
    head = ["set", "task", "size", "real_prompts", "synthetic", "refitted", "changed", "kl"]
    return head, rows


SECTIONS = {"few prompts": few}
TABLES = {"few-prompts.csv": every_task}
