"""Size against harm: of the bundle as it is, the sizes coded for the page, and scored bundles."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from hydraopt.inspect.choices import Choice, Choices
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
    rows = [SizeRow("chosen", label, size, values), *evidence.others]
    for point in () if choices is None else choices.points:
        share = f"{100 * point.size / fp16_bytes:.2f} % of fp16" if fp16_bytes else ""
        rows.append(_estimated(share, point, columns))
    return tuple(sorted(rows, key=lambda row: row.size))


def sizes_note(
    made: Choices | None,
    tasks: Sequence[TaskView],
    sizes: Sequence[SizeRow],
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
    return " ".join([note, *_harm_note(tasks, sizes)])


def _harm_note(tasks: Sequence[TaskView], sizes: Sequence[SizeRow]) -> Iterator[str]:
    """Yield sentences on the harm of other sizes, and on sizes without one."""
    if all(task.likely is None for task in tasks):
        return
    coded = [row for row in sizes if row.kind == "estimated"]
    count = sum("likely" in row.values for row in coded)
    if count:
        yield (
            "Their harm is an estimate, read between two errors at which a merge measured it; the "
            "range spans both, and a standard error of the measurement for answers that change."
        )
    if count < len(coded):
        where = f"At {len(coded) - count} of the other sizes" if count else "At the other sizes"
        yield (
            f"{where} no harm is stated: some task's error is not among those at which a merge "
            "measured its answers, or a refit changed what its curve means."
        )


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


def _estimated(label: str, point: Choice, own: Mapping[str, Column]) -> SizeRow:
    """Return the row of a size that was coded for the page.

    own: what is known of the bundle. A mean of harms is comparable with the bundle's own only over
    the same tasks, so a measure is left out unless all of these have a harm at this size.
    """
    values: Values = {}
    ranges: dict[str, tuple[float, float]] = {}
    if error := _mean_and_worst(point.errors):
        values["error"] = error
    for key in ("likely", "kl"):
        names = [name for name, value in own[key].items() if value is not None]
        if not names or not all(name in point.harms for name in names):
            continue
        held = {name: getattr(point.harms[name], key) for name in names}
        low, mean, high = (sum(x[i] for x in held.values()) / len(held) for i in range(3))
        if key == "likely":  # of other prompts another share of the answers would have changed
            spread = math.hypot(*(point.harms[name].likely_error for name in names)) / len(names)
            low, high = max(low - spread, 0.0), min(high + spread, 1.0)
        worst = max(held, key=lambda name: held[name][1])
        values[key], ranges[key] = (mean, held[worst][1], worst), (low, high)
    return SizeRow("estimated", label, point.size, values, ranges)
