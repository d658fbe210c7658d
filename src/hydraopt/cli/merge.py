"""``hydraopt merge``."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hydraopt.cli.common import cannot_combine, check_target, needs
from hydraopt.cli.mergeoptions import (
    DEFAULT_MEASURE,
    Asked,
    Importance,
    Prompts,
    base_tensors,
    onlooker_of,
    read_texts,
    warn_of_cut,
)
from hydraopt.cli.options import common_options, skip_option, workers_option
from hydraopt.cli.progress import progress_bar
from hydraopt.cli.results import show_plan, show_result

if TYPE_CHECKING:
    from hydraopt.engines.engine import Engine
    from hydraopt.merging.merge import MergeResult
    from hydraopt.merging.plan import Plan
    from hydraopt.progress import Progress

__all__ = ["merge"]


@click.command()
@click.argument("adapters", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="The bundle to write. OUT/, with a slash: a folder of a core file and task files.",
)
@click.option("--size", help="Limit of the whole file: 5% (of the inputs' fp16 bytes), 3MB, bytes.")
@click.option("--error", type=float, help="Limit of the relative error, mean over tasks: 0.2.")
@click.option("--max-error", type=float, help="Limit of the relative error of the worst task.")
@click.option("--lossless", is_flag=True, help="Every tensor comes back bit for bit.")
@click.option(
    "--harm",
    metavar="SHARE|NATS",
    help="Limit for each task, measured on --prompts: 1% of its answers may change, or 0.01nats of "
    "KL an answer.",
)
@click.option(
    "--weight",
    "weights",
    type=Importance(),
    multiple=True,
    help="How much a task's error counts, default 1; repeat for more tasks.",
)
@click.option(
    "--fair",
    is_flag=True,
    help="Bring all tasks to the same error; with --prompts and a size, to the same harm.",
)
@click.option(
    "--measure",
    default=DEFAULT_MEASURE,
    show_default=True,
    help="Cost of an error: bias-aware or frobenius.",
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
    help="The base model, a folder or OWNER/NAME that transformers loads: see on text that each "
    "adapter writes which of its modules matter.",
)
@click.option(
    "--prompts",
    "prompted",
    type=Prompts(),
    multiple=True,
    help="Measure on the answers to these prompts, no labels, what coding changes, and share the "
    "bytes out by it; needs --base. A folder of NAME.jsonl or NAME.txt files, or one task's file. "
    "One prompt a line, exactly as the model gets them; in a .jsonl file strings, or rows with an "
    '"input". Harm is measured on the first 64, which should be no training rows; a refit takes '
    "1,024 in all at most. Without a refit it is measured on the first 256.",
)
@click.option(
    "--answer-tokens",
    type=int,
    metavar="N",
    help="Judge the first N tokens of each answer, 1,024 at most; default 128. Give more where a "
    "warning says that answers go on.",
)
@click.option(
    "--products",
    type=click.Choice(("float32", "bfloat16")),
    default="float32",
    show_default=True,
    help="Matrix products of the base model; bfloat16 lets processors with AMX round them, which "
    "is faster: a few answers change by that alone.",
)
@click.option(
    "--refit/--no-refit",
    default=None,
    help="Train the coded parts to keep the answers, where that helps on prompts that are held "
    "out. Default with --prompts and --size.",
)
@click.option(
    "--plan-only",
    is_flag=True,
    help="Show each task by size by harm, and the size of the file, but write none: all of the "
    "merge is done but a refit. What was measured is remembered.",
)
@click.option("--plot", metavar="FILE", help="Draw the plan: .png, .svg or .pdf.")
@click.option(
    "--exact",
    multiple=True,
    metavar="PATTERN",
    help="Keep tensors whose keys match PATTERN (with * and ?) bit by bit; else heads, embeddings "
    "and the like are coded too. May be given again.",
)
@click.option("--same-base", is_flag=True, help="All were trained on one base, whatever they say.")
@click.option("--alpha", type=float, help="lora_alpha of files that do not state theirs.")
@skip_option
@click.option("--force", is_flag=True, help="Replace OUT even if it is not a bundle.")
@workers_option
@click.option(
    "--engine",
    type=click.Choice(("local", "ray")),
    default="local",
    show_default=True,
    help="Where workers are: processes of this machine, or a Ray cluster (docs/howto/fleet.md).",
)
@click.option("--address", help="Of the Ray cluster; default one on this machine, for this merge.")
@click.option(
    "--work",
    metavar="DIR",
    help="Keep what is done in this folder, so that the same merge goes on where it was ended; "
    "all nodes must see it. Remove it afterwards.",
)
@click.option("--memory", help="What each worker may keep in memory between passes: 500MB, 2GB.")
@common_options
def merge(
    adapters: tuple[str, ...],
    output: str | None,
    force: bool,
    plan_only: bool,
    plot: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Merge ADAPTERS (folders, files, globs, NAME=PATH) of one base model into one bundle.

    Give one limit at most: --size, --error, --max-error, --harm or --lossless; the default is
    --max-error 0.03 (docs/evidence says what that keeps, and what sizes cost). The file is never
    larger than --size. A bundle at OUT is replaced in one step, once the new one is complete; any
    other file there is kept unless --force is given. A folder OUT/ has to be empty.

    \b
    Example:
      hydraopt merge adapters/* --size 5% -o phone.hydra.safetensors
      hydraopt merge de=run1/best fr=run2/best --error 0.2 --weight de=2 -o two.hydra.safetensors
      hydraopt merge adapters/* --base BASE --prompts DIR --harm 1% -o kept.hydra.safetensors
      hydraopt merge adapters/* --base BASE --prompts DIR --size 5% --plan-only --plot plan.png
      hydraopt merge 'adapters/*' --engine ray --work work -o collection/
    """
    asked = Asked(**options)
    if plot and not plan_only:
        raise needs("--plot", "--plan-only")
    if plan_only:
        if output is not None:
            raise cannot_combine("--plan-only", ["-o"], "it writes no bundle")
        with progress_bar() as progress:
            planned = _planned(adapters, asked, plot, progress)
        show_plan(planned, asked.refits, as_json)
        if plot is not None:
            from hydraopt.report.figures import draw

            draw(planned, plot)
        return
    if output is None:
        raise click.UsageError("Missing option '-o' / '--output'.")
    check_target(output, force, folders=True)
    started = time.monotonic()
    with progress_bar() as progress:
        result = _merged(adapters, output, asked, progress)
    from hydraopt.bundle.reader import open_bundle
    from hydraopt.inspect.bundle import task_rows

    # What was seen with the base model takes its time as well.
    result = dataclasses.replace(result, seconds=time.monotonic() - started)
    show_result("hydraopt.merge/1", result, task_rows(open_bundle(output)), as_json)


def _merged(
    adapters: tuple[str, ...], output: str, asked: Asked, progress: Progress | None
) -> MergeResult:
    """Merge the adapters into the bundle ``output``."""
    from hydraopt.basemodel.products import products_of
    from hydraopt.files.apart import check_apart
    from hydraopt.merging.outcome import inputs_of
    from hydraopt.merging.output import check_output

    check_output(output)
    opened = asked.read(adapters)
    if asked.base is None:
        return _merge(opened, output, asked, None, progress)
    check_apart(output, inputs_of(opened))
    with products_of(asked.products):
        return _merge(opened, output, asked, _onlooker(asked, opened, progress), progress)


def _onlooker(asked: Asked, opened: Sequence[Any], progress: Progress | None) -> Any:
    """Return the base model to look at the adapters with; warn about tasks with few prompts."""
    from hydraopt.merging.align import coded_of
    from hydraopt.merging.options import check_prompted

    assert asked.base is not None
    asked.check_limits(opened)
    names = [adapter.name for adapter in opened]
    texts = read_texts(asked.prompted, names)
    if asked.harm is not None:  # before the base model is loaded
        check_prompted(coded_of(opened, asked.exact), texts)
    return onlooker_of(asked.base, opened, texts, progress, asked.refits, asked.answer_tokens)


def _planned(
    adapters: tuple[str, ...], asked: Asked, plot: str | None, progress: Progress | None
) -> Plan:
    """Return the plan of ``merge --plan-only``; refuse a ``plot`` that cannot be drawn first."""
    if plot is not None:
        from hydraopt.report.figures import check_plot

        check_plot(plot)
    if asked.base is None or not asked.prompted or (asked.size is None) == (asked.harm is None):
        raise needs("--plan-only", "--base", "--prompts", "one of --size, --harm")
    given = {
        "--error": asked.error is not None,
        "--max-error": asked.max_error is not None,
        "--lossless": asked.lossless,
        "--form": bool(asked.forms),
        "--exact": bool(asked.exact),
    }
    if idle := [name for name, x in given.items() if x]:
        raise cannot_combine("--plan-only", idle)
    from hydraopt.basemodel.products import products_of
    from hydraopt.merging.budget import Limit
    from hydraopt.merging.options import MergeOptions
    from hydraopt.merging.plan import plan

    opened = asked.read(adapters)
    with products_of(asked.products):
        onlooker = _onlooker(asked, opened, progress)
        options = MergeOptions(
            limit=Limit(asked.size, harm=asked.harm),
            importance=asked.importance,
            fair=asked.fair,
            measure=asked.measure,
            look=onlooker.look,
            same_base=asked.same_base,
            base=base_tensors(asked.base, opened),
            workers=_engine(asked),
            progress=progress,
        )
        planned = plan(opened, options)
        warn_of_cut(onlooker.judge)
    return planned


def _merge(
    opened: Sequence[Any],
    output: str,
    asked: Asked,
    onlooker: Any,
    progress: Progress | None,
) -> MergeResult:
    from hydraopt.merging.merge import merge as merge_adapters

    result = merge_adapters(
        opened,
        output,
        size=asked.size,
        error=asked.error,
        max_error=asked.max_error,
        lossless=asked.lossless,
        importance=asked.importance,
        fair=asked.fair,
        measure=asked.measure,
        harm=asked.harm,
        look=onlooker.look if onlooker else None,
        forms=asked.forms or None,
        same_base=asked.same_base,
        alpha=asked.alpha,
        exact=asked.exact,
        base=base_tensors(asked.base, opened),
        workers=_engine(asked),
        progress=progress,
    )
    if onlooker and result.harms:
        warn_of_cut(onlooker.judge)
    return result


def _engine(asked: Asked) -> Engine:
    """Options for workers: where they run and what they may keep."""
    from hydraopt.engines.engine import engine_named
    from hydraopt.merging.budget import parse_size

    work = Path(asked.work) if asked.work else None
    memory = parse_size(asked.memory, 0) if asked.memory else None
    return engine_named(asked.engine, asked.address, asked.workers, work, memory)
