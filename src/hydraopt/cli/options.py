"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from hydraopt.cli.common import QUIET

__all__ = [
    "common_options",
    "force_option",
    "same_base_option",
    "skip_option",
    "workers_option",
]

Command = TypeVar("Command", bound=Callable[..., Any])


def common_options(command: Command) -> Command:
    """Add --json and --quiet, which every command has."""
    return _json_option(_quiet_option(command))


def _set_quiet(ctx: click.Context, _option: click.Parameter, value: bool) -> None:
    ctx.meta[QUIET] = value


_json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON for machines instead of a table."
)
_quiet_option = click.option(
    "-q",
    "--quiet",
    is_flag=True,
    expose_value=False,
    callback=_set_quiet,
    help="Print nothing but errors.",
)
same_base_option = click.option(
    "--same-base",
    is_flag=True,
    help="Treat all adapters as trained on one base model, even if they name different ones.",
)
skip_option = click.option(
    "--skip-unreadable",
    is_flag=True,
    help="Skip adapters that cannot be read or contain NaN or infinity, and list them.",
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Maximum number of processes. Default: one per core, or one if the work is small. The "
    "result does not depend on it.",
)


def force_option(text: str) -> Callable[[Command], Command]:
    """Return the option --force, which permits to overwrite an output. text: its help."""
    return click.option("--force", is_flag=True, help=text)
