"""Progress of long work on stderr: a bar on a terminal, elsewhere a line now and then.

rich is imported inside the function, so that ``hydraopt --help`` does not wait for it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from hydraopt.cli.common import printable, say_aside, wants_progress
from hydraopt.progress import Progress

__all__ = ["progress_bar"]

EVERY: Final = 30.0
"""Seconds between two lines; shorter work prints none."""


@contextmanager
def progress_bar() -> Iterator[Progress | None]:
    """Yield a callback (stage, done, total) that reports progress on stderr.

    It moves a bar on a terminal, and writes lines elsewhere. None with --json or --quiet.
    """
    if not wants_progress():
        yield None
        return
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        line, last = bar.add_task("starting", total=None), ("", 0)

        def move(stage: str, done: int, total: int) -> None:
            nonlocal last
            name = stage.partition(",")[0]  # without the position in "x, round 2 of 8"
            if name != last[0] or done < last[1]:  # a stage may start over
                bar.reset(line)
            last = name, done
            bar.update(line, description=printable(stage), completed=done, total=total)

        yield move


def _lines() -> Progress:
    """Return a callback that prints the stage and its progress every half minute."""
    shown = time.monotonic()

    def move(stage: str, done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= EVERY:
            shown = now
            say_aside(f"{printable(stage)}: {done} of {total}")

    return move
