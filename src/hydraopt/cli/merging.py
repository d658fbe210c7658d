"""``hydraopt merge``, ``plan`` and ``shrink``, and the tables of their results."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from hydraopt.cli.options import (
    MergeRequest,
    common_options,
    exact_option,
    fair_option,
    force_option,
    prompts_option,
    same_base_option,
    skip_option,
    tell_synthetic,
    warn_of_cut,
    weight_option,
    workers_option,
)
from hydraopt.cli.terminal import (
    HARM_COLUMNS,
    check_target,
    emit_json,
    harm_cells,
    mean_and_worst,
    needs,
    percent,
    progress_bar,
    say,
    say_notes,
    show_table,
    size_text,
    warn,
    worst,
)
from hydraopt.files import to_json
from hydraopt.notes import counted

if TYPE_CHECKING:
    from hydraopt.inspect import TaskCost
    from hydraopt.merging import Changed, MergeResult, Plan
    from hydraopt.progress import Progress

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
    from hydraopt.bundle import open_bundle
    from hydraopt.inspect import compared, originals_of
    from hydraopt.merging import harm_limit_in

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
    from hydraopt.merging import HARM_UNITS, plan_limit

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


@click.command(short_help="Merge adapters of one base model into a bundle.")
@click.argument("adapters", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUT",
    help="Bundle to write. OUT/, with a slash, is a folder of a core file and task files.",
)
@click.option("--size", help="Limit on the file: 5% (of the inputs' fp16 bytes), 3MB, or bytes.")
@click.option("--error", type=float, help="Limit on the relative error, mean over tasks: 0.2.")
@click.option("--max-error", type=float, help="Limit on the relative error of the worst task.")
@click.option("--lossless", is_flag=True, help="Keep every tensor bit for bit.")
@click.option(
    "--harm",
    metavar="SHARE|NATS",
    help="Limit on the harm to each task, measured on --prompts: 1% of its answers may change, or "
    "0.01nats of KL per answer.",
)
@weight_option
@fair_option
@click.option(
    "--base",
    help="Base model, a folder or OWNER/NAME that transformers loads, to measure which modules of "
    "each adapter matter, on text that the adapter generates or on answers to --prompts.",
)
@prompts_option(
    "Prompts without labels to measure harm on and to train with; requires --base. A folder of "
    "NAME.jsonl or NAME.txt files, or TASK=FILE. One prompt per line, exactly as the model gets "
    'it; in a .jsonl file, JSON strings or rows with an "input". Harm is measured on the first 64, '
    "which should not be training rows, and a refit trains on up to 1,024 in all; with 5 to 63, "
    "the base model writes more to train with. Without a refit, harm is measured on the first 256."
)
@click.option(
    "--refit/--no-refit",
    default=None,
    help="Train the coded parts to keep the answers; kept only if it helps on held-out prompts. "
    "Default with --prompts and --size.",
)
@exact_option
@same_base_option
@skip_option
@force_option("Overwrite OUT even if it is not a bundle.")
@workers_option
@common_options
def merge(
    adapters: tuple[str, ...], output: str, force: bool, as_json: bool, **options: Any
) -> None:
    """Merge ADAPTERS (folders, files, globs, NAME=PATH) of one base model into one bundle.

    Give at most one limit: --size, --error, --max-error, --harm or --lossless. The default is
    --max-error 0.03. The file is never larger than --size. An existing bundle OUT is replaced in
    one step when the new one is complete; any other file requires --force, and a folder OUT/ must
    be empty.

    \b
    Example:
      hydraopt merge adapters/* --size 5% -o phone.hydra.safetensors
      hydraopt merge de=run1/best fr=run2/best --error 0.2 --weight de=2 -o two.hydra.safetensors
      hydraopt merge adapters/* --base BASE --prompts DIR --harm 1% -o kept.hydra.safetensors
      hydraopt merge 'adapters/*' --workers 4 -o collection/
    """
    request = MergeRequest(**options)
    check_target(output, force, folders=True)
    with progress_bar() as progress:
        result = _merged(adapters, output, request, progress)
    from hydraopt.bundle import open_bundle
    from hydraopt.inspect import task_rows

    show_result("hydraopt.merge/1", result, task_rows(open_bundle(output)), as_json)


def _merged(
    adapters: tuple[str, ...], output: str, request: MergeRequest, progress: Progress | None
) -> MergeResult:
    """Merge the adapters into the bundle ``output``."""
    from hydraopt.files import check_apart
    from hydraopt.merging import inputs_of, prepare, solve, write

    started = time.monotonic()
    opened = request.read(adapters)
    check_apart(output, inputs_of(opened))
    judge = request.answer_judge(opened, progress)
    options = request.options(opened, judge, progress)
    result = write(output, solve(prepare(opened, options, output)), started)
    if judge:
        tell_synthetic(judge)
    if judge and result.harms:
        warn_of_cut(judge)
    return result


@click.command(short_help="Estimate the size and harm of a merge; write no bundle.")
@click.argument("adapters", nargs=-1, required=True)
@click.option("--size", help="Limit on the file: 5% (of the inputs' fp16 bytes), 3MB, or bytes.")
@click.option(
    "--harm",
    metavar="SHARE|NATS",
    help="Limit on the harm to each task: 1% of its answers may change, or 0.01nats of KL per "
    "answer.",
)
@click.option("--base", required=True, help="Base model, as for merge.")
@prompts_option("Prompts to measure harm on, as for merge.", required=True)
@weight_option
@fair_option
@click.option("--plot", metavar="FILE", help="Draw the plan: .png, .svg or .pdf.")
@same_base_option
@skip_option
@workers_option
@common_options
def plan(adapters: tuple[str, ...], plot: str | None, as_json: bool, **options: Any) -> None:
    """Show the size and harm of each task that a merge of ADAPTERS would give; write no bundle.

    Give one limit, --size or --harm. plan does the work of merge except a refit. The measurements
    are cached, so a merge with the same options does not repeat them.

    \b
    Example:
      hydraopt plan adapters/* --base BASE --prompts DIR --size 5% --plot plan.png
    """
    if (options["size"] is None) == (options["harm"] is None):
        raise needs("plan", "one of --size, --harm")
    request = MergeRequest(**options)
    if plot is not None:
        from hydraopt.report import check_plot

        check_plot(plot)
    from hydraopt.merging import plan as plan_merge

    with progress_bar() as progress:
        opened = request.read(adapters)
        judge = request.answer_judge(opened, progress)
        made = plan_merge(opened, request.options(opened, judge, progress))
        if judge:
            warn_of_cut(judge)
    show_plan(made, as_json)
    if plot is not None:
        from hydraopt.report import draw

        draw(made, plot)


@click.command(short_help="Make a smaller bundle without the original adapters.")
@click.argument("bundle")
@click.option(
    "-o", "--output", required=True, metavar="OUT", help="Bundle to write. OUT/ is a folder."
)
@click.option("--size", help="Limit on the file: 2% (of the original fp16 bytes), 3MB, or bytes.")
@click.option("--error", type=float, help="Limit on the relative error added, mean over tasks.")
@click.option("--base", help="Base model; required if tensors are stored as differences from it.")
@force_option("Overwrite OUT even if it is not a bundle.")
@workers_option
@common_options
def shrink(
    bundle: str,
    output: str,
    size: str | None,
    error: float | None,
    base: str | None,
    force: bool,
    workers: int | None,
    as_json: bool,
) -> None:
    """Make a smaller bundle from BUNDLE, without the original adapters.

    Give one limit, --size or --error. The errors in the new bundle are estimates against the
    originals: the error of BUNDLE plus the error that shrinking adds.

    \b
    Example:
      hydraopt shrink phone.hydra.safetensors --size 2.5% -o watch.hydra.safetensors
    """
    check_target(output, force, folders=True)
    from hydraopt.bundle import open_bundle
    from hydraopt.inspect import task_rows
    from hydraopt.merging import shrink as shrink_bundle

    with progress_bar() as progress:
        result = shrink_bundle(
            bundle,
            output,
            size=size,
            error=error,
            base=base,
            workers=workers,
            progress=progress,
        )
    rows = task_rows(open_bundle(output))
    show_result("hydraopt.shrink/1", result, rows, as_json, estimated=True)
