"""``hydraopt pull``."""

from __future__ import annotations

import click

from hydraopt.cli.common import check_local, emit_json, json_option, say, warn
from hydraopt.values import counted

__all__ = ["pull"]


@click.command()
@click.argument("bundle")
@click.option("--task", "tasks", multiple=True, metavar="TASK", help="Pull this task; repeat.")
@click.option("-o", "--output", metavar="DIR", help="Where to write; default: the cache.")
@json_option
def pull(bundle: str, tasks: tuple[str, ...], output: str | None, as_json: bool) -> None:
    """Fetch BUNDLE, or some of its tasks, from an address to this machine.

    Without -o the bytes go into the cache, and commands that are given the address take them from
    there. DIR gets the files of a bundle in several files; of a bundle in one file it gets that
    file, or, with --task, a core file and task files. A later pull adds tasks to DIR.

    \b
    Example:
      hydraopt pull s3://bucket/phone/ --task numbers-de
      hydraopt pull https://host/phone.hydra.safetensors --task numbers-de -o phone
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
                "warnings": list(done.warnings),
            }
        )
        return
    for file in done.files:
        say(str(file))
    where = output if output is not None else "the cache"
    fetched = f"{done.fetched:,} were fetched"
    say(f"{counted(len(done.tasks), 'task')} -> {where}, {done.size:,} bytes; {fetched}")
