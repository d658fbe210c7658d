"""``hydraopt ls``."""

from __future__ import annotations

import click

from hydraopt.cli.common import (
    all_option,
    emit_json,
    json_option,
    mean_and_worst,
    say,
    show_table,
    size_text,
    worst,
)
from hydraopt.values import counted

__all__ = ["ls"]


@click.command()
@click.argument("bundle")
@all_option
@json_option
def ls(bundle: str, all_tasks: bool, as_json: bool) -> None:
    """List the tasks of BUNDLE, a file or a folder: bytes, errors, and what was added when.

    Nothing is decoded; hydraopt inspect says more.

    \b
    Example:
      hydraopt ls phone.hydra.safetensors
    """
    from hydraopt.inspect.listing import listing

    said = listing(bundle)
    if as_json:
        emit_json(said)
        return
    errors = [row["error"] for row in said["tasks"]]
    shown, left = worst(said["tasks"], lambda row: row["error"], all_tasks)
    show_table(
        f"{counted(len(said['tasks']), 'task')} in {said['path']}: {said['size']:,} bytes",
        ["task", "error", "own bytes", "carried bytes", "fp16 bytes", "added", "file"],
        [
            [
                row["name"],
                "lossless" if row["lossless"] else f"{row['error']:.4f}",
                f"{row['own_bytes']:,}",
                f"{row['carried_bytes']:,}",
                f"{row['fp16_bytes']:,}",
                row["added"]["day"] if row["added"] else "-",
                row["added"]["digest"] if row["added"] else "-",
            ]
            for row in shown
        ],
    )
    if left is not None:
        say(left)
        say(f"errors  {mean_and_worst(errors)} (relative, Frobenius)")
        say(f"own     {size_text(sum(row['own_bytes'] for row in said['tasks']))} of all tasks")
    say(f"core    {size_text(said['core_bytes'])} that the tasks share")
    say(f"base    {said['base_model'] or '(not named)'}")
