"""``hydraopt split``."""

from __future__ import annotations

import click

from hydraopt.cli.common import emit_json, json_option, say
from hydraopt.files.url import place_of

__all__ = ["split"]


@click.command()
@click.argument("bundle")
@click.option("-o", "--output", required=True, metavar="DIR", help="Where to write.")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace core and task files in DIR, if core and tasks are those of the bundle.",
)
@json_option
def split(bundle: str, output: str, overwrite: bool, as_json: bool) -> None:
    """Write what the tasks of BUNDLE share, and each task, to files of their own in DIR.

    DIR/NAME.core.safetensors is read once; then each task takes only DIR/TASK.task.safetensors.
    Every command takes DIR, or the core file, in the place of a bundle: it has the tasks whose
    files are there. Nothing is coded again, and join gives the bundle back byte for byte.

    \b
    Example:
      hydraopt split phone.hydra.safetensors -o phone
      hydraopt export phone numbers-de -o numbers-de
    """
    from hydraopt.collection.splitting import split as split_bundle

    written = split_bundle(bundle, output, overwrite)
    total = sum(x.size for x in written)
    if as_json:
        files = [{"task": x.task, "file": str(x.path), "bytes": x.size} for x in written]
        told = {"bundle": str(place_of(bundle)), "bytes": total, "files": files}
        emit_json({"schema": "hydraopt.split/1", **told})
        return
    core, *tasks = written
    say(f"core -> {core.path}, {core.size:,} bytes")
    for one in tasks:
        say(f"{one.task} -> {one.path}, {one.size:,} bytes")
    say(f"{len(written)} files, {total:,} bytes")
