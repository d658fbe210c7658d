"""``hydraopt split``."""

from __future__ import annotations

import click

from hydraopt.cli.common import emit_json, say
from hydraopt.cli.options import common_options, force_option
from hydraopt.files.url import place_of

__all__ = ["split"]


@click.command(short_help="Split a bundle into a core file and task files.")
@click.argument("bundle")
@click.option("-o", "--output", required=True, metavar="DIR", help="Folder to write to.")
@force_option("Overwrite core and task files in DIR that belong to the bundle.")
@common_options
def split(bundle: str, output: str, force: bool, as_json: bool) -> None:
    """Split BUNDLE into a core file and one file per task, in the folder DIR.

    DIR/NAME.core.safetensors holds the shared core, DIR/TASK.task.safetensors one task, and
    DIR/tasks.index.safetensors a list of the tasks. Commands accept DIR, or the core file, as a
    bundle of the tasks whose files are present. Nothing is coded again; join restores the bundle
    byte for byte.

    \b
    Example:
      hydraopt split phone.hydra.safetensors -o phone
      hydraopt export phone numbers-de -o numbers-de
    """
    from hydraopt.collection.splitting import split as split_bundle

    written = split_bundle(bundle, output, force)
    total = sum(x.size for x in written)
    if as_json:
        files = [{"task": x.task, "file": str(x.path), "bytes": x.size} for x in written]
        result = {"bundle": str(place_of(bundle)), "bytes": total, "files": files}
        emit_json({"schema": "hydraopt.split/1", **result})
        return
    core, *tasks, index = written
    say(f"core -> {core.path}, {core.size:,} bytes")
    for one in tasks:
        say(f"{one.task} -> {one.path}, {one.size:,} bytes")
    say(f"index -> {index.path}, {index.size:,} bytes")
    say(f"{len(written)} files, {total:,} bytes")
