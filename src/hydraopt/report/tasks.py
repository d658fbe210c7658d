"""Tasks on a page: the list, groups by language, sizes against harm, the summary."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from hydraopt.bundle import Bundle, Harm, base_words
from hydraopt.codec import Array
from hydraopt.inspect import Originals, TaskCosines, change_of, module_type, task_rows
from hydraopt.notes import counted
from hydraopt.report.data import (
    GroupRow,
    Judged,
    JudgedBy,
    Layers,
    LikenessMatrix,
    MapView,
    SizeRow,
    TaskView,
    kind_of,
    parts_of,
)
from hydraopt.report.evidence import Evidence


def task_views(bundle: Bundle, evidence: Evidence) -> list[TaskView]:
    """Return a view of all tasks, the most harmed first. Nothing is decoded."""
    parts = parts_of(list(bundle), evidence.where)
    rows = {row.name: row for row in bundle.rows}
    entries = {entry.name: entry for entry in bundle.manifest.tasks}
    views = []
    for cost in task_rows(bundle):
        row, entry, judged = rows[cost.name], entries[cost.name], evidence.judged.get(cost.name)
        extras = not cost.lossless and bool(cost.carried_bytes or cost.tensors)
        share, likely, kl, measured = _harm_of(cost.harm, judged)
        view = TaskView(
            name=cost.name,
            group=parts[cost.name][0],
            language=parts[cost.name][1],
            kind=kind_of(row.config, cost.lossless, extras),
            error=cost.error,
            lossless=cost.lossless,
            own_bytes=cost.own_bytes,
            carried_bytes=cost.carried_bytes,
            original_bytes=cost.original_bytes,
            modules=cost.modules,
            tensors=cost.tensors,
            base_model=entry.base_model,
            added=None if row.added is None else f"{row.added.day}, file {row.added.digest}",
            shared_with=cost.shared_with,
            notes=entry.notes,
            harm=share,
            likely=likely,
            kl=kl,
            measured=measured,
            judged=judged,
            examples=len(evidence.examples.get(cost.name, ())),
        )
        views.append(view)
    return sorted(views, key=lambda x: (tuple(-v for v in _harm_key(x)), x.name))


def _harm_of(
    harm: Harm | None, judged: Judged | None
) -> tuple[float | None, float | None, float | None, str]:
    """Return share of answers that change, likely share, KL, and what was measured.

    Results take precedence over the manifest.
    """
    share = likely = kl = None
    measured = ""
    if harm is not None:
        share, likely, kl = harm.changed / harm.answers, harm.likely, harm.kl
        measured = f"{harm.changed:,} of {harm.answers:,} prompts"
        measured += "" if harm.held_out else ", some of them seen by a refit"
    if judged is not None and judged.changed is not None and judged.rows:
        share, kl = judged.changed / judged.rows, judged.kl
        measured = f"{judged.changed:,} of {judged.rows:,} scored rows"
    return share, likely, kl, measured


def _harm_key(task: TaskView) -> tuple[float, ...]:
    share = -1.0 if task.harm is None else task.harm
    return share, task.likely or 0.0, task.kl or 0.0, task.error


def judged_by(tasks: Sequence[TaskView]) -> JudgedBy:
    """Return the source of harm that orders the list: the best one that any task has."""
    if any(x.judged is not None and x.judged.changed is not None for x in tasks):
        return "results"
    return "manifest" if any(x.harm is not None for x in tasks) else "error"


def values_of(tasks: Sequence[TaskView]) -> dict[str, tuple[str, ...]]:
    """Return the values of each filter that separates the tasks."""
    made = {}
    for key in ("language", "group", "kind"):
        values = sorted({str(getattr(x, key)) for x in tasks})
        made[key] = tuple(values) if len(values) > 1 else ()
    return made


_MOST_ROWS: Final = 60
_MOST_COLUMNS: Final = 160
_PAIRS: Final = 12


def group_rows(tasks: Sequence[TaskView], key: Callable[[TaskView], str]) -> tuple[GroupRow, ...]:
    """Return means over the tasks of each group, the most harmed first; none for one group.

    The interval covers the rows alone: tasks are taken as they are, and their bootstrap variances
    add.
    """
    members: dict[str, list[TaskView]] = {}
    for task in tasks:
        members.setdefault(key(task), []).append(task)
    if len(members) < 2:
        return ()
    rows = [_group(name, held) for name, held in members.items()]

    def order(row: GroupRow) -> tuple[float, float, str]:
        return -(row.changed if row.changed is not None else -1.0), -row.error, row.name

    return tuple(sorted(rows, key=order))


def _group(name: str, tasks: Sequence[TaskView]) -> GroupRow:
    shares = [x.harm for x in tasks if x.harm is not None]
    scored = [x.judged for x in tasks if x.judged is not None and x.judged.difference is not None]
    difference = low = high = None
    if scored:
        difference = sum(x.difference or 0.0 for x in scored) / len(scored)
        spread = math.hypot(*(x.deviation or 0.0 for x in scored)) / len(scored)
        low, high = difference - 1.96 * spread, difference + 1.96 * spread
    worst = max(tasks, key=lambda x: (-1.0 if x.harm is None else x.harm, x.error))
    error = sum(x.error for x in tasks) / len(tasks)
    changed = sum(shares) / len(shares) if shares else None
    return GroupRow(name, len(tasks), error, changed, difference, low, high, worst.name)


def map_of(bundle: Bundle, tasks: Sequence[TaskView], layers: Mapping[str, Layers]) -> MapView:
    """Return the map of the first tasks; by types of modules where modules are many."""
    shown = _map_tasks(tasks)
    entries = {name: bundle[name].entry for name in shown}
    paths = [module.path for module in bundle.core.modules]
    used = sorted(
        {i for name in shown for i in entries[name].modules}, key=lambda i: _key(paths[i])
    )
    grouped = len(used) > _MOST_COLUMNS
    label = {i: module_type(paths[i]) if grouped else paths[i] for i in used}
    types = list(dict.fromkeys(label[i] for i in used))
    columns = types[:_MOST_COLUMNS]
    kept = set(columns)
    errors, sizes = [], []
    for name in shown:
        entry = entries[name]
        held: dict[str, list[float]] = {}
        for i, error in zip(entry.modules, entry.errors, strict=True):
            if label[i] in kept:
                held.setdefault(label[i], []).append(error)
        means = {column: sum(values) / len(values) for column, values in held.items()}
        errors.append(tuple(means.get(column) for column in columns))
        counts = Counter[str]()
        for i, size in (
            zip(layers[name].modules, layers[name].bytes, strict=True) if (name in layers) else ()
        ):
            counts[label[i]] += size or 0
        decoded = name in layers
        sizes.append(tuple(counts[c] if decoded and c in means else None for c in columns))
    has_sizes = any(value is not None for row in sizes for value in row)
    sentences = [f"The {len(shown)} most harmed of {len(tasks):,} tasks."] * (
        len(shown) < len(tasks)
    )
    sentences += ["Modules of one type are taken together: mean errors, summed bytes."] * grouped
    left = len(types) - len(columns)
    sentences += [f"{left:,} more types of modules are not shown."] * (left > 0)
    return MapView(
        tuple(shown),
        tuple(columns),
        tuple(errors),
        tuple(sizes) if has_sizes else (),
        " ".join(sentences),
    )


def _map_tasks(tasks: Sequence[TaskView]) -> list[str]:
    """Return the names of the tasks that the map shows."""
    return [x.name for x in tasks if not x.lossless and x.modules][:_MOST_ROWS]


def _key(path: str) -> list[tuple[int, int, str]]:
    """Return a sort key for a path in which numbers count as numbers."""
    pieces = re.split(r"(\d+)", path)
    return [(0, int(x), "") if x.isdecimal() and len(x) < 10 else (1, 0, x) for x in pieces]


def alike_of(compared: TaskCosines, count: int) -> LikenessMatrix | None:
    """Return the likeness of the tasks, with alike ones side by side; None for fewer than two.

    Tasks without a cosine are left out, because nothing is known of them.
    """
    some = np.flatnonzero(np.isfinite(np.diag(compared.cosines)))
    if some.size < 2:
        return None
    names, known = [compared.tasks[i] for i in some], compared.cosines[np.ix_(some, some)]
    cosines = np.nan_to_num(known)
    order = _order(cosines)
    percent = np.rint(100 * known)
    rows = tuple(
        tuple(int(percent[i, j]) if np.isfinite(percent[i, j]) else None for j in order)
        for i in order
    )
    above = np.triu_indices(len(names), 1)
    best = np.argsort(-cosines[above], kind="stable")[:_PAIRS]
    pairs = tuple(
        (names[i], names[j], round(100 * float(cosines[i, j])))
        for i, j in zip(above[0][best], above[1][best], strict=True)
    )
    left = len(names) < count
    note = f"{len(names)} of {count:,} tasks." if left else ""
    return LikenessMatrix(tuple(names[i] for i in order), rows, pairs, note)


def _order(cosines: Array) -> list[int]:
    """Return all tasks in a row, near ones side by side.

    Rows are joined at their ends, the nearest two ends first, until one is left.
    """
    row_of = [[i] for i in range(len(cosines))]
    first, second = np.triu_indices(len(cosines), 1)
    for pair in np.argsort(-cosines[first, second], kind="stable"):
        i, j = int(first[pair]), int(second[pair])
        left, right = row_of[i], row_of[j]
        if left is not right and i in (left[0], left[-1]) and j in (right[0], right[-1]):
            left = left if left[-1] == i else left[::-1]
            joined = left + (right if right[0] == j else right[::-1])
            for task in joined:
                row_of[task] = joined
    return row_of[0]


def forms_of(layers: Mapping[str, Layers]) -> tuple[tuple[str, int], ...]:
    """Return (form, number of records), the most common form first."""
    counts = Counter(form for held in layers.values() for form in held.forms)
    return tuple(counts.most_common())


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


def bytes_text(count: float) -> str:
    """Format bytes for people: "912 bytes", "46.8 kB", "3.10 MB" (powers of ten)."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if count >= 10**power:
            return f"{count / 10**power:.{2 if count < 10 ** (power + 1) else 1}f} {unit}"
    return f"{count:.0f} bytes"


_WHOLE: Final = {
    "fp16": "that the adapters have in fp16",
    "read": "that were read",
    "mixed": "of the originals (lossless tasks as read, others in fp16)",
}


def summary_of(
    bundle: Bundle, tasks: Sequence[TaskView], originals: Originals, image: bool
) -> tuple[str, ...]:
    """Return size, harm and scores, one sentence each.

    image: True if the adapters are for an image model, which writes no answers.
    """
    count = counted(len(tasks), "task")
    size = f"{count} of {base_words(bundle.base_model, bundle.core.modules)} take "
    size += bytes_text(bundle.size)
    if originals.size:
        size += (
            f": {100 * bundle.size / originals.size:.2f} % of the {bytes_text(originals.size)} "
            f"{_WHOLE[originals.stored]}, {change_of(bundle.size, originals.size)}"
        )
    sentences = [f"{size}."]
    if not image or any(x.harm is not None for x in tasks):
        sentences.append(_harm(tasks))
    differences = {
        x.name: x.judged.difference for x in tasks if x.judged and x.judged.difference is not None
    }
    if differences:
        mean = sum(differences.values()) / len(differences)
        least = min(differences, key=lambda name: differences[name])
        sentences.append(
            f"Against the originals, scores change by {mean:+.2f} points in the mean of "
            f"{len(differences)} tasks, and by {differences[least]:+.2f} points in the worst task, "
            f"{least}."
        )
    if all(x.lossless for x in tasks):
        return (*sentences, "Every task is stored losslessly.")
    errors = [x.error for x in tasks]
    worst = max(tasks, key=lambda x: x.error)
    sentences.append(
        f"The relative error of the weights is {sum(errors) / len(errors):.3f} in the mean, and "
        f"{worst.error:.3f} in the worst task, {worst.name}. It is no measure of harm: noise "
        "of the same size does less harm than a lost part of the change."
    )
    return tuple(sentences)


def _harm(tasks: Sequence[TaskView]) -> str:
    measured = [x for x in tasks if x.harm is not None]
    if not measured:
        return "Harm: not measured. hydraopt eval and merge --prompts measure it."
    mean = sum(x.harm or 0.0 for x in measured) / len(measured)
    worst = max(measured, key=lambda x: x.harm or 0.0)
    among = (
        f"{len(measured):,} of {len(tasks):,} tasks"
        if len(measured) < len(tasks)
        else f"all {len(tasks):,} tasks"
    )
    if not worst.harm:
        return f"None of the originals' answers changes in what was measured, of {among}."
    return (
        f"{100 * mean:.1f} % of the originals' answers change, in the mean of {among}; "
        f"most in {worst.name}: {worst.measured}."
    )
