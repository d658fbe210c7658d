"""Commands and options of earlier builds, and what to use instead: the tables of howto/moved.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import click

__all__ = ["COMMANDS", "OPTIONS", "instead_of"]

COMMANDS: Final[Mapping[str, str]] = {
    "replace": "add BUNDLE TASK=PATH --replace",
    "rename": "in Python, hydraopt.editing.verbs.rename",
    "ls": "inspect BUNDLE --list",
    "diff": "inspect ONE OTHER",
    "explore": "report BUNDLE --serve",
    "card": "report BUNDLE --card",
    "completion": 'eval "$(_HYDRAOPT_COMPLETE=bash_source hydraopt)" in your .bashrc',
    "methods": "in Python, hydraopt.methods.combine",
}
"""What to use instead of a command, by the name of the command."""
_COMBINE: Final = "in Python, hydraopt.methods.combine"
_ENGINES: Final = "in Python, Local and OnRay of hydraopt.engines.engine"
_COMPARE: Final = "in Python, fields of hydraopt.evaluate.compare.EvaluationRequest"
_MERGE: Final = "in Python, hydraopt.merge(measure=..., forms=[...], alpha=...)"
_SETTINGS: Final = "in Python, HarmSettings of hydraopt.merging.look"
_PLAN: Final = "nothing: plan shows the harm before a refit"
_PRODUCTS: Final = "in Python, hydraopt.basemodel.products.products_of"
OPTIONS: Final[Mapping[tuple[str, str], str]] = {
    ("merge", "--plan-only"): "plan",
    ("merge", "--method"): _COMBINE,
    ("merge", "--heads"): _COMBINE,
    ("merge", "--rank"): _COMBINE,
    ("merge", "--solver"): _COMBINE,
    ("merge", "--option"): _COMBINE,
    ("merge", "--plot"): "plan --plot",
    ("merge", "--measure"): _MERGE,
    ("merge", "--form"): _MERGE,
    ("merge", "--alpha"): _MERGE,
    ("merge", "--answer-tokens"): _SETTINGS,
    ("merge", "--products"): _PRODUCTS,
    ("plan", "--refit"): _PLAN,
    ("plan", "--no-refit"): _PLAN,
    ("eval", "--products"): _COMPARE,
    ("eval", "--seed"): _COMPARE,
    ("eval", "--probe-items"): "--rows",
    ("eval", "--no-scores"): "--probes without --tasks",
    ("eval", "--swaps"): "--probes, with your rows as items",
    ("export", "--overwrite"): "--force",
    ("split", "--overwrite"): "--force",
    ("refresh", "--apply"): "--force",
    ("add", "--error"): "--max-error",
    ("export", "--task"): "names of tasks after BUNDLE",
    ("pull", "--task"): "names of tasks after BUNDLE",
    ("report", "--host"): "nothing: report --serve accepts only this machine",
    ("serve", "--api-key"): "the environment variable HYDRAOPT_API_KEY",
    ("", "--all"): "--json, which prints every task",
    ("", "--alpha"): "in Python, hydraopt.read_adapters(paths, alpha=...)",
    ("", "--engine"): _ENGINES,
    ("", "--address"): _ENGINES,
    ("", "--work"): _ENGINES,
    ("", "--memory"): _ENGINES,
}
"""What to use instead of an option, by command and option; "" is every other command."""


def instead_of(error: click.ClickException) -> str | None:
    """Return the message for an earlier command or option; None for any other error.

    click would suggest one that is spelled alike, which may do something else.
    """
    place = None
    if isinstance(error, click.exceptions.NoSuchCommand):
        place = COMMANDS.get(error.command_name)
    elif isinstance(error, click.NoSuchOption):
        command, option = error.ctx.info_name if error.ctx else "", error.option_name
        place = OPTIONS.get((command or "", option), OPTIONS.get(("", option)))
    return None if place is None else f"{error.message} Use instead: {place}"
