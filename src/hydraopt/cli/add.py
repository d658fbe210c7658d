"""``hydraopt add``."""

from __future__ import annotations

from typing import Any

import click

from hydraopt.cli.adding import Adding, adding_options, run_adding

__all__ = ["add"]


@click.command()
@click.argument("bundle")
@click.argument("adapters", nargs=-1, required=True)
@adding_options
def add(
    bundle: str,
    adapters: tuple[str, ...],
    all_tasks: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Add ADAPTERS (as for merge) to BUNDLE, a file or a folder of core and tasks.

    Each is coded by itself against the core, which stays; no byte of another task changes, and the
    order does not matter. Without a limit a bit may cost what it cost in the merge. What the core
    does not fit costs more bytes; hydraopt refresh says how many a new core would save.

    \b
    Example:
      hydraopt add phone.hydra.safetensors adapters/numbers-pl
      hydraopt add phone.hydra.safetensors pl=run3/best --error 0.1
    """
    asked = Adding(**options)
    from hydraopt.editing.verbs import add as add_to

    run_adding(add_to, bundle, adapters, asked, all_tasks, as_json, quiet)
