"""Size against harm: of the bundle as it is, and of other scored bundles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hydraopt.report.evidence import Evidence
from hydraopt.report.model import SizeRow, TaskView

__all__ = ["size_rows"]

Values = dict[str, tuple[float, float, str]]
Column = Mapping[str, float | None]


def size_rows(
    name: str, size: int, tasks: Sequence[TaskView], evidence: Evidence
) -> tuple[SizeRow, ...]:
    """Return all sizes, the smallest first. name, size: of the bundle itself."""
    scored = sum(x.judged is not None for x in tasks)
    label = f"{name}, scored on {scored} of {len(tasks)} tasks" if scored else name
    columns = _columns(tasks)
    values = {key: value for key, column in columns.items() if (value := _mean_and_worst(column))}
    rows = [SizeRow("chosen", label, size, values), *evidence.other_sizes]
    return tuple(sorted(rows, key=lambda row: row.size))


def _columns(tasks: Sequence[TaskView]) -> dict[str, Column]:
    """Return what is known of the bundle itself, by measure and task."""
    return {
        "error": {x.name: x.error for x in tasks},
        "changed": {x.name: x.harm for x in tasks},
        "likely": {x.name: x.likely for x in tasks},
        "kl": {x.name: x.kl for x in tasks},
        "drop": {
            x.name: None if x.judged is None or x.judged.difference is None else
            -x.judged.difference
            for x in tasks
        },
    }  # fmt: skip


def _mean_and_worst(column: Column) -> tuple[float, float, str] | None:
    known = {name: value for name, value in column.items() if value is not None}
    if not known:
        return None
    worst = max(known, key=lambda name: known[name])
    return sum(known.values()) / len(known), known[worst], worst
