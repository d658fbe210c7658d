"""``hydraopt rename``."""

from __future__ import annotations

import click

from hydraopt.cli.common import json_option
from hydraopt.cli.results import show_changed

__all__ = ["rename"]


@click.command()
@click.argument("bundle")
@click.argument("old")
@click.argument("new")
@json_option
def rename(bundle: str, old: str, new: str, as_json: bool) -> None:
    """Call the task OLD of BUNDLE, a file or a folder, NEW.

    \b
    Example:
      hydraopt rename phone.hydra.safetensors numbers-de zahlen
    """
    from hydraopt.editing.verbs import rename as rename_in

    show_changed(rename_in(bundle, old, new), as_json)
