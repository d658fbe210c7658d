"""``hydraopt diff``."""

from __future__ import annotations

import click

from hydraopt.cli.common import emit_json, json_option, say, show_table
from hydraopt.values import counted

__all__ = ["diff"]


@click.command()
@click.argument("one")
@click.argument("other")
@json_option
def diff(one: str, other: str, as_json: bool) -> None:
    """Say how the bundle OTHER differs from ONE, by their manifests and checksums.

    Tasks that were added, removed, renamed or changed, and whether both have the same core. Nothing
    is decoded.

    \b
    Example:
      hydraopt diff before.hydra.safetensors phone.hydra.safetensors
    """
    from hydraopt.inspect.listing import difference

    said = difference(one, other)
    if as_json:
        emit_json(said)
        return
    rows: list[list[str]] = []
    rows += [[name, "added", "", "", ""] for name in said["added"]]
    rows += [[name, "removed", "", "", ""] for name in said["removed"]]
    rows += [[old, f"renamed to {new}", "", "", ""] for old, new in said["renamed"].items()]
    for row in said["changed"]:
        errors = " -> ".join(f"{x:.4f}" for x in row["error"])
        own = [a + b for a, b in zip(row["own_bytes"], row["carried_bytes"], strict=True)]
        sizes = " -> ".join(f"{x:,}" for x in own)
        rows.append([row["name"], "changed", ", ".join(row["what"]), errors, sizes])
    if rows:
        columns = ["task", "is", "what of it", "error", "bytes"]
        show_table(f"{said['paths'][0]} -> {said['paths'][1]}", columns, rows)
    before, after = said["size"]
    say(f"core    {'the same' if said['core'] == 'same' else 'another one'}")
    say(f"same    {counted(len(said['same']), 'task')}")
    say(f"size    {before:,} -> {after:,} bytes")
