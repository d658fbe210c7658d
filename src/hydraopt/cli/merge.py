"""``hydraopt merge``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from hydraopt.cli.common import (
    check_target,
    emit_json,
    factor,
    json_option,
    percent,
    progress_bar,
    quiet_option,
    say,
    show_table,
    size_text,
    threads_option,
)

__all__ = ["merge"]


class Importance(click.ParamType[tuple[str, float]]):
    """TASK=NUMBER; the task's name may hold "=" itself."""

    name = "TASK=NUMBER"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        task, equals, number = str(value).rpartition("=")
        try:
            return task if equals and task else self.fail(f"{value!r} has no '='"), float(number)
        except ValueError:
            self.fail(f"{number!r} in {value!r} is not a number, as in numbers-de=2", param, ctx)


class Prompts(click.ParamType[tuple[str, str]]):
    """TASK=FILE; the task's name may not hold "=", the file's may."""

    name = "TASK=FILE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        task, equals, file = str(value).partition("=")
        if not (equals and task and file):
            self.fail(f"{value!r} is not TASK=FILE, as in numbers-de=prompts.txt", param, ctx)
        return task, file


@click.command()
@click.argument("adapters", nargs=-1, required=True)
@click.option("-o", "--output", required=True, metavar="OUT", help="The bundle to write.")
@click.option("--size", help="Limit of the whole file: 5% (of the inputs' fp16 bytes), 3MB, bytes.")
@click.option("--error", type=float, help="Limit of the relative error, mean over tasks: 0.2.")
@click.option("--max-error", type=float, help="Limit of the relative error of the worst task.")
@click.option("--lossless", is_flag=True, help="Every tensor comes back bit for bit.")
@click.option(
    "--weight",
    "weights",
    type=Importance(),
    multiple=True,
    help="How much a task's error counts, default 1; repeat for more tasks.",
)
@click.option("--fair", is_flag=True, help="Bring all tasks to the same error.")
@click.option(
    "--measure",
    default="bias-aware",
    show_default=True,
    help="What an error costs: frobenius, bias-aware, absolute or displacement.",
)
@click.option(
    "--form",
    "forms",
    multiple=True,
    help="Permit only these: private, shared-input, shared-output, two-sided, predicted. Repeat "
    "for several; default all.",
)
@click.option(
    "--base",
    help="The base model, a folder that transformers loads: see on text that each adapter writes "
    "which of its modules matter.",
)
@click.option(
    "--prompts",
    "prompted",
    type=Prompts(),
    multiple=True,
    help="See it on the answers to these prompts, one a line, no labels; needs --base.",
)
@click.option("--same-base", is_flag=True, help="All were trained on one base, whatever they say.")
@click.option("--alpha", type=float, help="lora_alpha of files that do not state theirs.")
@click.option("--force", is_flag=True, help="Replace OUT even if it is not a bundle.")
@threads_option
@json_option
@quiet_option
def merge(
    adapters: tuple[str, ...],
    output: str,
    size: str | None,
    error: float | None,
    max_error: float | None,
    lossless: bool,
    weights: tuple[tuple[str, float], ...],
    fair: bool,
    measure: str,
    forms: tuple[str, ...],
    base: str | None,
    prompted: tuple[tuple[str, str], ...],
    same_base: bool,
    alpha: float | None,
    force: bool,
    threads: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Merge ADAPTERS (folders, files, globs, NAME=PATH) of one base model into one bundle.

    Give one limit at most: --size, --error, --max-error or --lossless; the default is --size 10%
    (docs/evidence.md says what sizes cost). The file is never larger than --size. A bundle at OUT
    is replaced in one step, once the new one is complete; any other file there is kept unless
    --force is given.

    \b
    Example:
      hydraopt merge adapters/* --size 5% -o phone.hydra.safetensors
      hydraopt merge de=run1/best fr=run2/best --error 0.2 --weight de=2 -o two.hydra.safetensors
      hydraopt merge adapters/* --base BASE --prompts dates=dates.txt -o seen.hydra.safetensors
    """
    check_target(output, force)
    importance, prompts = dict(weights), dict(prompted)
    if len(importance) != len(weights):
        raise click.BadParameter("a task is named twice", param_hint="--weight")
    if len(prompts) != len(prompted):
        raise click.BadParameter("a task is named twice", param_hint="--prompts")
    if prompts and base is None:
        raise click.BadParameter("give the base model as well: --base", param_hint="--prompts")
    if base is not None and lossless:
        raise click.BadParameter("--lossless leaves nothing to weigh", param_hint="--base")
    from hydraopt.adapters import read_adapters
    from hydraopt.bundle.reader import open_bundle
    from hydraopt.inspect.bundle import task_rows
    from hydraopt.merging import merge as merge_adapters

    with progress_bar(quiet or as_json) as progress:
        sources: Sequence[Any] = adapters
        sensitivity = None
        if base is not None:
            sources = read_adapters(adapters, same_base=same_base, alpha=alpha)
            from hydraopt.evaluate.prompts import read_prompts, seen_with

            texts = {task: read_prompts(file) for task, file in prompts.items()}
            sensitivity = seen_with(base, sources, texts, progress)
        result = merge_adapters(
            sources,
            output,
            size=size,
            error=error,
            max_error=max_error,
            lossless=lossless,
            importance=importance,
            fair=fair,
            measure=measure,
            sensitivity=sensitivity,
            forms=forms or None,
            same_base=same_base,
            alpha=alpha,
            threads=threads,
            progress=progress,
        )
    show_result("hydraopt.merge/1", result, task_rows(open_bundle(output)), as_json)


def show_result(schema: str, result: Any, tasks: list[dict[str, Any]], as_json: bool) -> None:
    """What merge or shrink made.  tasks: rows of hydraopt.inspect.bundle.task_rows."""
    if as_json:
        emit_json({"schema": schema, **result.to_dict(), "tasks": tasks})
        return
    show_table(
        f"{len(tasks)} tasks in {result.path}",
        ["task", "error", "own bytes", "carried bytes", "fp16 bytes"],
        [
            [
                row["name"],
                f"{row['error']:.4f}",
                f"{row['own_bytes']:,}",
                f"{row['carried_bytes']:,}",
                f"{row['fp16_bytes']:,}",
            ]
            for row in tasks
        ],
    )
    for note in result.notes:
        say(f"note: {note}")
    forms = ", ".join(f"{name} {count}" for name, count in result.forms.items()) or "none"
    mean = sum(row["error"] for row in tasks) / max(len(tasks), 1)
    worst = max((row["error"] for row in tasks), default=0.0)
    say(f"errors  {mean:.4f} mean, {worst:.4f} worst (relative, Frobenius)")
    say(f"forms   {forms}; measure {result.measure}")
    say(
        f"size    {result.size:,} bytes ({size_text(result.size)}), {percent(result.fraction)} of "
        f"the fp16 bytes, {factor(result.fraction)} smaller; {result.seconds:.1f} s"
    )
