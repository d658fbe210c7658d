"""``hydraopt doctor``."""

from __future__ import annotations

from dataclasses import asdict

import click

from hydraopt.cli.common import emit_json, json_option, say, show_table

__all__ = ["doctor"]


@click.command()
@click.option("--base", help="A base model's folder to look at as well; no weights are loaded.")
@json_option
@click.pass_context
def doctor(ctx: click.Context, base: str | None, as_json: bool) -> None:
    """Look at what is installed, what there is room for, and whether a small merge works.

    Exit code 1 if anything that commands need does not work. A bug report is better with this.

    \b
    Example:
      hydraopt doctor
      hydraopt doctor --base ~/models/gemma-3-270m --json
    """
    from hydraopt.doctor.look import look

    symptoms = list(look(base))
    if as_json:
        rows = [asdict(symptom) for symptom in symptoms]
        emit_json({"schema": "hydraopt.doctor/1", "symptoms": rows})
    else:
        columns = ["", "state", "seen"]
        cells = [[x.what, x.state, x.said] for x in symptoms]
        show_table("What hydraopt sees here", columns, cells, words=True)
        for symptom in symptoms:
            if symptom.do:
                say(f"{symptom.state}: {symptom.what}: {symptom.do}")
    if any(symptom.state == "trouble" for symptom in symptoms):
        ctx.exit(1)
