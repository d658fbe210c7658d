"""``hydraopt verify``."""

from __future__ import annotations

import click

from hydraopt.cli.common import emit_json, json_option, say

__all__ = ["verify"]


@click.command()
@click.argument("bundle")
@click.argument("adapters", nargs=-1)
@json_option
@click.pass_context
def verify(ctx: click.Context, bundle: str, adapters: tuple[str, ...], as_json: bool) -> None:
    """Read all of BUNDLE again; with ADAPTERS, the originals, also measure every error again.

    Exit code 0 if all is well, 1 if there are problems.

    \b
    Example:
      hydraopt verify phone.hydra.safetensors
      hydraopt verify phone.hydra.safetensors adapters/*
    """
    import hydraopt

    report = hydraopt.verify_bundle(bundle, list(adapters) or None)
    if as_json:
        emit_json({"schema": "hydraopt.verify/1", **report.to_dict()})
    else:
        for problem in report.problems:
            say(f"problem: {problem}")
        against = f", against {len(adapters)} inputs" if adapters else ""
        count = len(report.problems)
        verdict = f"{count} problem{'s' * (count != 1)}" if count else "all is well"
        say(f"{bundle}: {verdict}{against}")
    ctx.exit(1 if report.problems else 0)
