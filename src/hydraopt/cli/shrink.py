"""``hydraopt shrink``."""

from __future__ import annotations

import click

from hydraopt.cli.common import (
    all_option,
    check_target,
    json_option,
    quiet_option,
    workers_option,
)
from hydraopt.cli.progress import progress_bar
from hydraopt.cli.results import show_result

__all__ = ["shrink"]


@click.command()
@click.argument("bundle")
@click.option("-o", "--output", required=True, metavar="OUT", help="The bundle to write.")
@click.option("--size", help="Limit of the file: 2% (of the original fp16 bytes), 3MB, bytes.")
@click.option("--error", type=float, help="Limit of the mean relative error that is added.")
@click.option("--base", help="The base model's folder, if tensors are kept as differences from it.")
@click.option("--force", is_flag=True, help="Replace OUT even if it is not a bundle.")
@workers_option
@all_option
@json_option
@quiet_option
def shrink(
    bundle: str,
    output: str,
    size: str | None,
    error: float | None,
    base: str | None,
    force: bool,
    workers: int | None,
    all_tasks: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make a smaller bundle from BUNDLE, without the original adapters.

    Give one limit, --size or --error. The errors in the new bundle are estimates against the
    originals: what BUNDLE had left and what shrinking adds. What the merge permitted of forms, by
    --form, holds on.

    \b
    Example:
      hydraopt shrink phone.hydra.safetensors --size 2.5% -o watch.hydra.safetensors
    """
    check_target(output, force, folders=True)
    from hydraopt.bundle.reader import open_bundle
    from hydraopt.editing.shrink import shrink as shrink_bundle
    from hydraopt.inspect.bundle import task_rows

    with progress_bar(quiet or as_json) as progress:
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
    show_result("hydraopt.shrink/1", result, rows, as_json, all_tasks, estimated=True)
