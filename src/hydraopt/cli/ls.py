"""``hydraopt ls``."""

from __future__ import annotations

import click

from hydraopt.cli.common import emit_json, json_option, say, show_table, size_text
from hydraopt.values import counted

__all__ = ["ls"]


@click.command()
@click.argument("bundle")
@json_option
def ls(bundle: str, as_json: bool) -> None:
    """List the tasks of BUNDLE, a file or a folder: bytes, errors, and what was added when.

    Nothing is decoded; hydraopt inspect says more.

    \b
    Example:
      hydraopt ls phone.hydra.safetensors
    """
    from hydraopt.collection.listing import listing

    said = listing(bundle)
    if as_json:
        emit_json(said)
        return
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
            for row in said["tasks"]
        ],
    )
    say(f"core    {size_text(said['core_bytes'])} that the tasks share")
    say(f"base    {said['base_model'] or '(not named)'}")
