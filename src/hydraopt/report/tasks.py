"""List of tasks: one view each, the most harmed first, with filters."""

from __future__ import annotations

from collections.abc import Sequence

from hydraopt.bundle.harm import Harm
from hydraopt.bundle.reader import Bundle
from hydraopt.inspect.bundle import task_rows
from hydraopt.report.evidence import Evidence
from hydraopt.report.model import Judged, JudgedBy, TaskView
from hydraopt.report.naming import kind_of, parts_of

__all__ = ["judged_by", "task_views", "values_of"]


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
