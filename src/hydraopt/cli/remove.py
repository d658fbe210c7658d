"""``hydraopt remove``."""

from __future__ import annotations

import click

from hydraopt.cli.common import json_option
from hydraopt.cli.results import show_changed

__all__ = ["remove"]


@click.command()
@click.argument("bundle")
@click.argument("tasks", nargs=-1, required=True)
@json_option
def remove(bundle: str, tasks: tuple[str, ...], as_json: bool) -> None:
    """Remove TASKS from BUNDLE, a file or a folder of core and tasks.

    No byte that was theirs alone is left, and no other byte changes. The core stays, which was made
    for all tasks of the merge; hydraopt refresh makes one without them.

    \b
    Example:
      hydraopt remove phone.hydra.safetensors numbers-de
    """
    from hydraopt.editing.verbs import remove as remove_from

    show_changed(remove_from(bundle, tasks), as_json)
