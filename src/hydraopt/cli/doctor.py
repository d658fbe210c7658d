"""``hydraopt doctor``."""

from __future__ import annotations

import click

from hydraopt.cli.common import emit_json, say, show_table
from hydraopt.cli.options import common_options
from hydraopt.jsonvalues import to_json

__all__ = ["doctor"]


@click.command(short_help="Check the installation with a small merge.")
@click.option("--base", help="Folder of a base model to check as well; no weights are loaded.")
@common_options
@click.pass_context
def doctor(ctx: click.Context, base: str | None, as_json: bool) -> None:
    """Check the installation, the free space, and whether a small merge works.

    Exit code 1 if a required part does not work. Attach the output to bug reports.

    \b
    Example:
      hydraopt doctor
      hydraopt doctor --base ~/models/gemma-3-270m --json
    """
    from hydraopt.doctor.look import look

    symptoms = list(look(base))
    if as_json:
        emit_json({"schema": "hydraopt.doctor/1", "symptoms": to_json(symptoms)})
    else:
        columns = ["", "state", "result"]
        cells = [[x.what, x.state, x.finding] for x in symptoms]
        show_table("Installation", columns, cells, words=True)
        for symptom in symptoms:
            if symptom.do:
                say(f"{symptom.state}: {symptom.what}: {symptom.do}")
    if any(symptom.state == "trouble" for symptom in symptoms):
        ctx.exit(1)
