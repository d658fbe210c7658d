"""Size against harm: of the bundle as it is, the sizes coded for the page, and scored bundles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hydraopt.inspect.choices import Choices
from hydraopt.report.evidence import Evidence
from hydraopt.report.model import SizeRow, TaskView

__all__ = ["size_rows", "sizes_note"]

Values = dict[str, tuple[float, float, str]]
Column = Mapping[str, float | None]


def size_rows(
    name: str,
    size: int,
    fp16_bytes: int,
    tasks: Sequence[TaskView],
    choices: Choices | None,
    evidence: Evidence,
) -> tuple[SizeRow, ...]:
    """Return all sizes, the smallest first. name, size: of the bundle itself."""
    scored = sum(x.judged is not None for x in tasks)
    label = f"{name}, scored on {scored} of {len(tasks)} tasks" if scored else name
    columns = _columns(tasks)
    values = {key: value for key, column in columns.items() if (value := _mean_and_worst(column))}
    rows = [SizeRow("chosen", label, size, values), *evidence.other_sizes]
    for point in () if choices is None else choices.points:
        share = f"{100 * point.size / fp16_bytes:.2f} % of fp16" if fp16_bytes else ""
        error = _mean_and_worst(point.errors)
        rows.append(SizeRow("estimated", share, point.size, {"error": error} if error else {}))
    return tuple(sorted(rows, key=lambda row: row.size))


def sizes_note(
    made: Choices | None,
    tasks: Sequence[TaskView],
    most: int,
    too_many: bool,
) -> str:
    """Return what the other sizes are, or the reason for having none.

    most: tasks of a bundle whose other sizes are coded. too_many: whether it has too many modules.
    """
    if made is None or not made.points:
        none = "No other size is shown."
        if too_many:
            return f"{none} The bundle has too many modules for its bytes."
        if all(task.lossless for task in tasks):
            return f"{none} Nothing is coded."
        if len(tasks) > most:
            return f"{none} That is done for at most {most} tasks."
        return none if made is None else made.missing or none
    if made.originals:
        note = (
            "Several other sizes were coded from the originals for this page, with the errors of "
            "hydraopt merge --size without prompts; sizes between them are interpolated."
        )
    else:
        note = (
            "Several other sizes were coded from the bundle for this page, with the errors that "
            "hydraopt shrink states; sizes between them are interpolated. Without --originals no "
            "larger size is known, and a merge from the originals gives a better one of the same "
            "size."
        )
    if any(task.harm is not None for task in tasks):
        note += " Their harm was not measured."
    return note


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
