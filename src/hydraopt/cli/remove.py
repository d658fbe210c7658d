"""``hydraopt remove``."""

from __future__ import annotations

import click

from hydraopt.cli.options import common_options
from hydraopt.cli.results import show_changed

__all__ = ["remove"]


@click.command(short_help="Remove tasks from a bundle.")
@click.argument("bundle")
@click.argument("tasks", nargs=-1, required=True)
@common_options
def remove(bundle: str, tasks: tuple[str, ...], as_json: bool) -> None:
    """Remove TASKS from BUNDLE, a file or a folder of core and task files.

    BUNDLE is changed in place. All bytes that belong only to TASKS are deleted, and no other byte
    changes. The core stays, although it was computed from the removed tasks too; hydraopt refresh
    computes a new one.

    \b
    Example:
      hydraopt remove phone.hydra.safetensors numbers-de
    """
    from hydraopt.editing.verbs import remove as remove_from

    show_changed(remove_from(bundle, tasks), as_json)
