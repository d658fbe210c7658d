"""List of tasks: one view each, the most harmed first, with filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from hydraopt.bundle.reader import Bundle
from hydraopt.bundle.row import TaskRow
from hydraopt.bundle.spec import TaskEntry
from hydraopt.inspect.bundle import sharers
from hydraopt.inspect.originals import original_bytes
from hydraopt.report.evidence import Evidence
from hydraopt.report.model import JudgedBy, TaskView
from hydraopt.report.naming import kind_of, parts_of

__all__ = ["SORTS", "Wanted", "judged_by", "selected", "task_views", "values_of", "with_notes"]

SORTS: Final = {
    "harm": lambda x: _harm_key(x),
    "error": lambda x: x.error,
    "size": lambda x: x.own_bytes + x.carried_bytes,
    "drop": lambda x: -(x.judged.difference or 0.0) if x.judged else 0.0,
}
"""Sort keys of the list, largest first; only "name" sorts ascending."""


def task_views(bundle: Bundle, evidence: Evidence) -> list[TaskView]:
    """Return a view of all tasks, the most harmed first. Nothing is decoded.

    If the bundle has only rows, base models, equal tasks and notes are left out; see
    :func:`with_notes`.
    """
    parts = parts_of(list(bundle), evidence.where)
    originals = original_bytes(bundle)
    views = [_view(row, parts[row.name], evidence, originals[row.name]) for row in bundle.rows]
    if bundle.is_whole:
        entries, shared = {x.name: x for x in bundle.manifest.tasks}, sharers(bundle)
        views = [with_notes(x, entries[x.name], shared[x.name]) for x in views]
    return sorted(views, key=lambda x: (tuple(-v for v in _harm_key(x)), x.name))


def with_notes(view: TaskView, entry: TaskEntry, shared_with: Sequence[str] = ()) -> TaskView:
    """Return the view with the facts that a row does not hold."""
    return replace(
        view, base_model=entry.base_model, shared_with=tuple(shared_with), notes=entry.notes
    )


def _view(row: TaskRow, parts: tuple[str, str], evidence: Evidence, original: int) -> TaskView:
    harm, judged = row.harm, evidence.judged.get(row.name)
    share = likely = kl = None
    measured = ""
    if harm is not None:
        share, likely, kl = harm.changed / harm.answers, harm.likely, harm.kl
        measured = f"{harm.changed:,} of {harm.answers:,} prompts"
        measured += "" if harm.held_out else ", some of them seen by a refit"
    if judged is not None and judged.changed is not None and judged.rows:
        share, kl = judged.changed / judged.rows, judged.kl
        measured = f"{judged.changed:,} of {judged.rows:,} scored rows"
    return TaskView(
        row.name,
        *parts,
        kind_of(
            row.config, row.lossless, not row.lossless and bool(row.carried_bytes or row.tensors)
        ),
        row.error,
        row.lossless,
        row.own_bytes,
        row.carried_bytes,
        original,
        row.modules,
        row.tensors,
        None,
        None if row.added is None else f"{row.added.day}, file {row.added.digest}",
        (),
        (),
        share,
        likely,
        kl,
        measured,
        judged,
        len(evidence.examples.get(row.name, ())),
    )


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


@dataclass(frozen=True)
class Wanted:
    """Filter and order. query: in the name, whatever the case. sort: of SORTS, or "name"."""

    query: str = ""
    language: str = ""
    group: str = ""
    kind: str = ""
    sort: str = "harm"
    up: bool = False


def selected(tasks: Sequence[TaskView], wanted: Wanted) -> list[TaskView]:
    """Return the tasks that pass a filter, in its order; ``tasks`` are in order of harm."""
    query = wanted.query.casefold()
    left = [
        x
        for x in tasks
        if query in x.name.casefold()
        and wanted.language in ("", x.language)
        and wanted.group in ("", x.group)
        and wanted.kind in ("", x.kind)
    ]
    if wanted.sort == "name":
        return sorted(left, key=lambda x: x.name, reverse=wanted.up)
    key = SORTS.get(wanted.sort, SORTS["harm"])
    return sorted(left, key=key, reverse=not wanted.up)
