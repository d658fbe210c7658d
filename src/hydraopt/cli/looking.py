"""Shared by report, explore and card: parse their arguments and check their output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from hydraopt.errors import UsageError, explain
from hydraopt.files.outputs import destination

__all__ = ["check_page", "originals_option", "results_option", "told_apart"]

originals_option = click.option(
    "--originals",
    multiple=True,
    metavar="ADAPTERS",
    help="The adapters that it was made of; several may follow one --originals.",
)
results_option = click.option(
    "--results",
    multiple=True,
    metavar="EVAL.json",
    help="What hydraopt eval -o wrote; several may follow one --results.",
)


def told_apart(
    more: Sequence[str], originals: Sequence[str], results: Sequence[str]
) -> tuple[list[str], list[str]]:
    """(originals, results). more: what followed an option's first value, as a shell expands it: a
    name that ends in .json is a result."""
    files = [x for x in more if x.lower().endswith(".json")]
    return [*originals, *(x for x in more if x not in files)], [*results, *files]


def check_page(path: str, force: bool, ours: Callable[[bytes], bool]) -> None:
    """Raise UsageError unless ``path`` may be written: a file that is not there, or one that
    ``ours`` says an earlier call wrote, by its beginning, or any with --force."""
    target = destination(Path(path))
    if target.is_dir():
        raise UsageError(explain("the output is a folder", file=path, expected="a file name"))
    if not target.parent.is_dir():
        raise UsageError(explain("no such folder", file=target.parent, do="Create it first"))
    if force or not target.exists():
        return
    if not target.is_file() or not ours(_beginning(target)):
        raise UsageError(
            explain(
                "the output exists and hydraopt did not make it",
                file=path,
                do="Choose another name, or pass --force to replace it",
            )
        )


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        start: Any = file.read(1 << 16)
    return bytes(start)
