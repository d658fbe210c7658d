"""``hydraopt pull``."""

from __future__ import annotations

import click

from hydraopt.cli.common import check_local, emit_json, say, warn
from hydraopt.cli.options import common_options
from hydraopt.jsonvalues import to_json
from hydraopt.values import counted

__all__ = ["pull"]


@click.command(short_help="Download a bundle, or some of its tasks.")
@click.argument("bundle")
@click.argument("tasks", nargs=-1)
@click.option("-o", "--output", metavar="DIR", help="Folder to write to. Default: the cache.")
@common_options
def pull(bundle: str, tasks: tuple[str, ...], output: str | None, as_json: bool) -> None:
    """Download BUNDLE, or TASKS of it, from an address to this machine.

    Without -o the bytes are stored in the cache, which commands use when they read this address.
    With -o, a bundle in one file is written to DIR as one file, or, for TASKS, as a core file and
    task files; the files of a folder are copied. A later pull adds tasks to DIR.

    \b
    Example:
      hydraopt pull s3://bucket/phone/ numbers-de
      hydraopt pull https://host/phone.hydra.safetensors numbers-de -o phone
    """
    if output is not None:
        check_local(output)
    from hydraopt.collection.pulling import pull as pull_bundle

    done = pull_bundle(bundle, output, tasks or None)
    for warning in done.warnings:
        warn(warning)
    if as_json:
        emit_json(
            {
                "schema": "hydraopt.pull/1",
                "tasks": list(done.tasks),
                "bytes": done.size,
                "fetched_bytes": done.fetched,
                "files": [str(file) for file in done.files],
                "warnings": to_json(done.warnings),
            }
        )
        return
    for file in done.files:
        say(str(file))
    where = output if output is not None else "the cache"
    fetched = f"{done.fetched:,} were fetched"
    say(f"{counted(len(done.tasks), 'task')} -> {where}, {done.size:,} bytes; {fetched}")
