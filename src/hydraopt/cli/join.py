"""``hydraopt join``."""

from __future__ import annotations

import click

from hydraopt.cli.common import check_target, emit_json, say, warn
from hydraopt.cli.options import common_options, force_option
from hydraopt.files.url import place_of
from hydraopt.notes import Note
from hydraopt.values import counted

__all__ = ["join"]


@click.command(short_help="Join core and task files into one bundle.")
@click.argument("parts", nargs=-1, required=True)
@click.option("-o", "--output", required=True, metavar="BUNDLE", help="Bundle to write.")
@force_option("Overwrite an output that is not a bundle.")
@common_options
def join(parts: tuple[str, ...], output: str, force: bool, as_json: bool) -> None:
    """Join PARTS into one bundle: a core file and task files written by split, or their folder.

    All task files together give the original bundle, byte for byte; some of them give a bundle of
    these tasks. Tasks of another core, two tasks of one name, and two cores are refused.

    \b
    Example:
      hydraopt join phone -o phone.hydra.safetensors
      hydraopt join phone/phone.core.safetensors phone/dates-*.task.safetensors -o dates.safetensors
    """
    check_target(output, force)
    from hydraopt.collection.splitting import join as join_bundle

    size, tasks = join_bundle(parts, output)
    if as_json:
        result = {"bundle": str(place_of(output)), "bytes": size, "tasks": tasks}
        emit_json({"schema": "hydraopt.join/1", **result})
        return
    say(f"{counted(len(tasks), 'task')} -> {place_of(output)}, {size:,} bytes")
    if not tasks:
        warn(Note("no_tasks", "no task file was given, so the bundle has no tasks"))
