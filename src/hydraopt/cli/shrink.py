"""``hydraopt shrink``."""

from __future__ import annotations

import click

from hydraopt.cli.common import check_target
from hydraopt.cli.options import common_options, force_option, workers_option
from hydraopt.cli.progress import progress_bar
from hydraopt.cli.results import show_result

__all__ = ["shrink"]


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
    from hydraopt.collection.opening import open_bundle
    from hydraopt.editing.shrink import shrink as shrink_bundle
    from hydraopt.inspect.bundle import task_rows

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
