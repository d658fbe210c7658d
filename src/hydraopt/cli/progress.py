"""Where long work is, on stderr.

rich is imported inside the function, so that ``hydraopt --help`` does not wait for it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hydraopt.cli.common import printable
from hydraopt.progress import Progress

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(hidden: bool) -> Iterator[Progress | None]:
    """A callback (stage, done, total) that moves a bar on stderr; None without a terminal."""
    if hidden or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    said = TextColumn("{task.description}", markup=False)
    columns = (said, BarColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task("starting", total=None)

        def move(stage: str, done: int, total: int) -> None:
            bar.update(line, description=printable(stage), completed=done, total=total)

        yield move
