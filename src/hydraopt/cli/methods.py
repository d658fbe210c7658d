"""``hydraopt methods``."""

from __future__ import annotations

import click

from hydraopt.cli.common import emit_json, json_option, say, show_table

__all__ = ["methods"]


@click.command()
@json_option
def methods(as_json: bool) -> None:
    """List the methods that merge --method runs: source, defaults, what may be relied on.

    "any factors" says whether the result depends on the adapters' products alone: with "no" it
    changes when B and A are rotated against each other, which changes nothing an adapter does.

    \b
    Example:
      hydraopt methods --json
    """
    from hydraopt.methods import METHODS

    if as_json:
        rows = [
            {
                "name": row.name,
                "title": row.title,
                "paper": row.paper,
                "year": row.year,
                "claim": row.claim,
                "defaults": row.settings,
                "rotation_invariant": row.rotation_invariant,
                "order_free": row.order_free,
            }
            for row in METHODS.values()
        ]
        emit_json({"schema": "hydraopt.methods/1", "methods": rows})
        return
    show_table(
        f"{len(METHODS)} methods",
        ["name", "source", "any factors", "defaults"],
        [
            [
                row.name,
                row.paper,
                "yes" if row.rotation_invariant else "no",
                ", ".join(f"{k}={v}" for k, v in row.settings.items() if v is not None) or "-",
            ]
            for row in METHODS.values()
        ],
    )
    for row in METHODS.values():
        say(f"{row.name}: {row.claim} ({row.title}, {row.year})")
