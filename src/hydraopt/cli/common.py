"""What the verbs share: options, JSON and tables on stdout, progress on stderr.

rich is imported inside the functions, so that ``hydraopt --help`` does not wait for it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from hydraopt.errors import UsageError, explain
from hydraopt.progress import Progress

__all__ = [
    "check_target",
    "emit_json",
    "factor",
    "json_option",
    "percent",
    "progress_bar",
    "quiet_option",
    "say",
    "show_table",
    "size_text",
    "threads_option",
]


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON for machines instead of a table."
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads to use; default all cores. Does not change the result.",
)


def emit_json(value: Any) -> None:
    """One JSON document on stdout; NaN and infinity, which JSON lacks, are errors of ours."""
    click.echo(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False))


def say(text: str) -> None:
    """A line for people on stdout."""
    click.echo(text)


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table for people on stdout; columns after the first are numbers and lean right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # A file or a pipe has no width; the default of 80 would cut names that are data there.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    for i, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if i else "left", overflow="fold")
    for row in rows:
        # Text, not str: names may hold what rich takes for markup.
        table.add_row(*(Text(str(cell)) for cell in row))
    console.print(table)


@contextmanager
def progress_bar(hidden: bool) -> Iterator[Progress | None]:
    """A callback (stage, done, total) that moves a bar on stderr; None without a terminal."""
    if hidden or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task("starting", total=None)

        def move(stage: str, done: int, total: int) -> None:
            bar.update(line, description=stage, completed=done, total=total)

        yield move


def check_target(path: str, force: bool, inputs: Sequence[str] = ()) -> None:
    """A bundle may be replaced by a new one; any other file only with --force.

    Raises UsageError otherwise. Running a command again works; a mistyped ``-o`` does not destroy
    an adapter.
    """
    target = Path(path)
    if target.is_dir():
        raise UsageError(explain("the output is a folder", file=path, expected="a file name"))
    if not target.parent.is_dir():
        raise UsageError(explain("no such folder", file=target.parent, do="Create it first"))
    if force or not target.exists():
        return
    from hydraopt.bundle.kind import is_bundle

    if any(target.resolve() == Path(given).resolve() for given in inputs):
        raise UsageError(
            explain("the output would replace the input", file=path, do="Pass --force if so meant")
        )
    if not is_bundle(target):
        raise UsageError(
            explain(
                "the output exists and is not a bundle",
                file=path,
                do="Choose another name, or pass --force to replace it",
            )
        )


def size_text(count: float) -> str:
    """Bytes for people: "912 B", "46.8 kB", "3.10 MB" (powers of ten)."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if count >= 10**power:
            return f"{count / 10**power:.{2 if count < 10 ** (power + 1) else 1}f} {unit}"
    return f"{count:.0f} B"


def percent(share: float) -> str:
    """A share of one as "4.98 %"."""
    return f"{100 * share:.2f} %"


def factor(share: float) -> str:
    """How many times smaller: "20.1x"."""
    return f"{1 / share:.1f}x" if share else "-"
