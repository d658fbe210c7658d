"""Show the results of merge, plan, shrink, add and remove as tables or JSON."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from hydraopt.cli.common import (
    HARM_COLUMNS,
    emit_json,
    harm_cells,
    mean_and_worst,
    percent,
    say,
    say_notes,
    show_table,
    size_text,
    warn,
    worst,
)
from hydraopt.jsonvalues import to_json
from hydraopt.values import counted

if TYPE_CHECKING:
    from hydraopt.editing.verbs import Changed
    from hydraopt.inspect.bundle import TaskCost
    from hydraopt.merging.merge import MergeResult
    from hydraopt.merging.plan import Plan

__all__ = ["show_changed", "show_plan", "show_result"]

_LEAST_TOLD: Final = {"%": 1e-3, "nats": 1e-6}
"""Smallest harm of a plan that is shown as a number."""


def show_result(
    schema: str,
    result: MergeResult,
    tasks: Sequence[TaskCost],
    as_json: bool,
    estimated: bool = False,
) -> None:
    """Show the result of merge or shrink.

    tasks: rows of hydraopt.inspect.bundle.task_rows.
    estimated: whether the errors are estimates.
    """
    if as_json:
        emit_json(
            {
                "schema": schema,
                **to_json(result),
                "fraction": result.fraction,
                "estimated": estimated,
                "tasks": to_json(tasks),
            }
        )
        return
    from hydraopt.collection.opening import open_bundle
    from hydraopt.inspect.originals import compared, originals_of
    from hydraopt.merging.recipe import harm_limit_in

    bundle = open_bundle(result.path)
    originals = originals_of(bundle)
    left = _show_tasks(
        f"{counted(len(tasks), 'task')} in {result.path}", tasks, estimated, originals.column
    )
    if left is not None:
        say(left)
    say_notes(result.notes)
    if (limit := harm_limit_in(bundle.recipe)) is not None:
        say(f"limit   {limit.words}; each task keeps it on these prompts, with a margin")
    forms = ", ".join(f"{name} {count}" for name, count in result.forms.items()) or "none"
    say(f"errors  {mean_and_worst([row.error for row in tasks])} (relative, Frobenius)")
    say(f"forms   {forms}; measure {result.measure}")
    say(f"report  hydraopt report {shlex.quote(str(result.path))} -o report.html")
    say(
        f"size    {result.size:,} bytes ({size_text(result.size)}), "
        f"{compared(result.size, originals)}; {result.seconds:.1f} s"
    )


def _show_tasks(
    title: str, tasks: Sequence[TaskCost], estimated: bool, originals: str
) -> str | None:
    """Show a table of the tasks, or of the worst of many; return what was left out."""
    heads = any(row.tensors for row in tasks)
    judged = any(row.harm for row in tasks)
    shown, left = worst(tasks, _badness)
    show_table(
        title,
        [
            "task",
            "error, estimated" if estimated else "error",
            *["worst tensor"] * heads,
            *list(HARM_COLUMNS)[: 4 * judged],
            "own bytes",
            "carried bytes",
            originals,
        ],
        [
            [
                row.name,
                f"{row.error:.4f}",
                *["-" if row.tensor_error is None else f"{row.tensor_error:.4f}"] * heads,
                *harm_cells(row.harm)[: 4 * judged],
                f"{row.own_bytes:,}",
                f"{row.carried_bytes:,}",
                f"{row.original_bytes:,}",
            ]
            for row in shown
        ],
    )
    return left


def _badness(row: TaskCost) -> tuple[float, float]:
    """Return the sort key of a task: the share of changed answers, if known, and its error."""
    return row.harm.likely if row.harm else -1.0, row.error


def show_changed(done: Changed, as_json: bool, what: str = "added to") -> None:
    """Show a change of a bundle. what: text for the tasks that were added or replaced."""
    for warning in done.warnings:
        warn(warning)
    if as_json:
        emit_json({"schema": "hydraopt.change/1", **to_json(done)})
        return
    if done.added:
        judged = any(task.harm for task in done.added)
        shown, left = worst(done.added, lambda task: task.error)
        show_table(
            f"{what} {done.path}: {len(done.added)}",
            [
                "task",
                "error",
                "own bytes",
                "fp16 bytes",
                *list(HARM_COLUMNS)[: 4 * judged],
                "forms",
            ],
            [
                [
                    task.name,
                    f"{task.error:.4f}",
                    f"{task.own_bytes:,}",
                    f"{task.fp16_bytes:,}",
                    *harm_cells(task.harm)[: 4 * judged],
                    ", ".join(f"{name} {count}" for name, count in task.forms.items()) or "-",
                ]
                for task in shown
            ],
        )
        if left is not None:
            say(left)
            say(f"errors  {mean_and_worst([task.error for task in done.added])}")
    for name in done.removed:
        say(f"removed {name}")
    for old, new in done.renamed.items():
        say(f"renamed {old} to {new}")
    say_notes(done.notes)
    say(f"size    {done.size_before:,} -> {done.size:,} bytes")


def show_plan(plan: Plan, as_json: bool) -> None:
    """Show a plan."""
    if as_json:
        emit_json(to_json(plan))
        return
    from hydraopt.merging.plan import HARM_UNITS, plan_limit

    scale, unit, what = HARM_UNITS[plan.counted]
    least = _LEAST_TOLD[unit]

    def harm_text(harm: float | None) -> str:
        if harm is None:
            return "-"
        return f"{scale * harm:.3g}" if scale * harm >= least else f"< {least:g}"

    tasks, left = worst(plan.tasks, lambda task: task.harm.likely if task.harm else 0.0)
    show_table(
        f"Planned bytes, and {what} ({unit})",
        ["task", "planned", f"counted {unit}", *HARM_COLUMNS[:3]],
        [[x.name, size_text(x.size), harm_text(x.counted), *harm_cells(x.harm)[:3]] for x in tasks],
    )
    if left is not None:
        say(left)
    say(f"limit   {plan_limit(plan)}")
    say_notes(plan.notes)
    before = ", before a refit" if plan.refit else ""
    size = f"{plan.size:,} bytes ({size_text(plan.size)})"
    say(f"size    {size}, {percent(plan.size / plan.fp16_bytes)} of the fp16 bytes{before}")
