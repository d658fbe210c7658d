"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from hydraopt.cli.common import QUIET
from hydraopt.cli.prompting import PromptFile

__all__ = [
    "common_options",
    "exact_option",
    "fair_option",
    "force_option",
    "originals_option",
    "prompts_option",
    "same_base_option",
    "skip_option",
    "weight_option",
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
    help="Print only errors.",
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


class _Weight(click.ParamType[tuple[str, float]]):
    """TASK=NUMBER. The name of the task may contain "="."""

    name = "TASK=NUMBER"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        task, equals, number = str(value).rpartition("=")
        try:
            return task if equals and task else self.fail(f"{value!r} has no '='"), float(number)
        except ValueError:
            self.fail(f"{number!r} in {value!r} is not a number, as in numbers-de=2", param, ctx)


class _Prompts(click.ParamType[PromptFile]):
    """DIR, or TASK=FILE. The name of the file may contain "=", that of the task may not."""

    name = "DIR|TASK=FILE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> PromptFile:
        task, equals, file = str(value).partition("=")
        if not equals or Path(value).is_dir():
            return "", str(value)
        if not (task and file):
            self.fail(f"{value!r} is not TASK=FILE, as in numbers-de=prompts.txt", param, ctx)
        return task, file


weight_option = click.option(
    "--weight",
    "weights",
    type=_Weight(),
    multiple=True,
    help="Weight of a task's error. Default: 1. Repeatable.",
)
fair_option = click.option("--fair", is_flag=True, help="Give all tasks the same error.")
exact_option = click.option(
    "--exact",
    multiple=True,
    metavar="PATTERN",
    help="Keep tensors whose names match PATTERN (with * and ?) bit for bit. By default, heads and "
    "embeddings are coded with a loss. Repeatable.",
)


def prompts_option(text: str, required: bool = False) -> Callable[[Command], Command]:
    """Return the option --prompts. text: its help."""
    return click.option(
        "--prompts", "prompted", type=_Prompts(), multiple=True, required=required, help=text
    )


def force_option(text: str) -> Callable[[Command], Command]:
    """Return the option --force, which permits to overwrite an output. text: its help."""
    return click.option("--force", is_flag=True, help=text)


originals_option = click.option(
    "--originals",
    multiple=True,
    metavar="ADAPTERS",
    help="Original adapters of the bundle; several may follow one --originals.",
)
