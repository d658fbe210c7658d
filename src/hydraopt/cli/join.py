"""``hydraopt join``."""

from __future__ import annotations

import click

from hydraopt.cli.common import check_target, emit_json, json_option, say
from hydraopt.files.url import place_of
from hydraopt.values import counted

__all__ = ["join"]


@click.command()
@click.argument("parts", nargs=-1, required=True)
@click.option("-o", "--output", required=True, metavar="BUNDLE", help="The bundle to write.")
@click.option("--force", is_flag=True, help="Replace an output that is no bundle.")
@json_option
def join(parts: tuple[str, ...], output: str, force: bool, as_json: bool) -> None:
    """Write one bundle from PARTS: a core file and task files that split wrote, or their folder.

    With all task files it is the bundle that was split, byte for byte; with some of them, the
    bundle of these tasks. Refused are tasks of another core, two of one name, and two cores.

    \b
    Example:
      hydraopt join phone -o phone.hydra.safetensors
      hydraopt join phone/phone.core.safetensors phone/dates-*.task.safetensors -o dates.safetensors
    """
    check_target(output, force)
    from hydraopt.collection.splitting import join as join_bundle

    size, tasks = join_bundle(parts, output)
    if as_json:
        told = {"bundle": str(place_of(output)), "bytes": size, "tasks": tasks}
        emit_json({"schema": "hydraopt.join/1", **told})
        return
    say(f"{counted(len(tasks), 'task')} -> {place_of(output)}, {size:,} bytes")
    if not tasks:
        click.echo("note: there was no task file, so the bundle has no tasks", err=True)
