"""``hydraopt merge``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from hydraopt.cli.common import check_target
from hydraopt.cli.mergerequest import MergeRequest
from hydraopt.cli.options import (
    common_options,
    exact_option,
    fair_option,
    force_option,
    prompts_option,
    same_base_option,
    skip_option,
    weight_option,
    workers_option,
)
from hydraopt.cli.progress import progress_bar
from hydraopt.cli.prompting import tell_synthetic, warn_of_cut
from hydraopt.cli.results import show_result

if TYPE_CHECKING:
    from hydraopt.merging.merge import MergeResult
    from hydraopt.progress import Progress

__all__ = ["merge"]


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
    from hydraopt.collection.opening import open_bundle
    from hydraopt.inspect.bundle import task_rows

    show_result("hydraopt.merge/1", result, task_rows(open_bundle(output)), as_json)


def _merged(
    adapters: tuple[str, ...], output: str, request: MergeRequest, progress: Progress | None
) -> MergeResult:
    """Merge the adapters into the bundle ``output``."""
    from hydraopt.files.apart import check_apart
    from hydraopt.merging.merge import prepare, solve, write
    from hydraopt.merging.outcome import inputs_of

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
