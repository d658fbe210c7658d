"""Tasks taken together: by language, by group, and as a map of modules."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from hydraopt.bundle.reader import Bundle
from hydraopt.inspect.likeness import TaskCosines
from hydraopt.inspect.summary import module_type
from hydraopt.linalg.shapes import Array
from hydraopt.report.model import GroupRow, Layers, LikenessMatrix, MapView, TaskView

__all__ = ["alike_of", "forms_of", "group_rows", "map_of"]

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
