"""``hydraopt replace``."""

from __future__ import annotations

from typing import Any

import click

from hydraopt.cli.adding import Adding, adding_options, run_adding

__all__ = ["replace"]


@click.command()
@click.argument("bundle")
@click.argument("adapters", nargs=-1, required=True)
@adding_options
def replace(
    bundle: str,
    adapters: tuple[str, ...],
    all_tasks: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Put ADAPTERS in the place of the tasks of the same names in BUNDLE, a file or a folder.

    As remove and add in one step; see there. Name an adapter after its task: TASK=PATH.

    \b
    Example:
      hydraopt replace phone.hydra.safetensors numbers-de=run4/best
    """
    asked = Adding(**options)
    from hydraopt.editing.verbs import replace as replace_in

    run_adding(replace_in, bundle, adapters, asked, all_tasks, as_json, quiet)
