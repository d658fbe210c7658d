"""Where long work is, on stderr: a bar on a terminal, elsewhere a line now and then.

rich is imported inside the function, so that ``hydraopt --help`` does not wait for it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from hydraopt.cli.common import printable, say_aside
from hydraopt.progress import Progress

__all__ = ["progress_bar", "progress_lines"]

_EVERY: Final = 30.0
"""Seconds between two lines; work that is shorter says nothing."""


@contextmanager
def progress_bar(hidden: bool) -> Iterator[Progress | None]:
    """A callback (stage, done, total) that moves a bar on stderr, or writes lines there where it is
    no terminal; None if hidden."""
    if hidden:
        yield None
        return
    if not sys.stderr.isatty():
        yield progress_lines(say_aside)
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
        last = "", 0

        def move(stage: str, done: int, total: int) -> None:
            nonlocal last
            if stage != last[0] or done < last[1]:  # a stage may start over
                bar.reset(line)
            last = stage, done
            bar.update(line, description=printable(stage), completed=done, total=total)

        yield move


def progress_lines(
    say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
) -> Progress:
    """A callback that says where the work is every half minute: the stage, how much of it is done,
    and how long the rest will take at the speed so far. clock: seconds."""
    said = begun = clock()
    first, last, before = 0, 0, ""

    def move(stage: str, done: int, total: int) -> None:
        nonlocal said, begun, first, last, before
        now = clock()
        if stage != before or done < last:  # a stage may start over
            before, begun, first = stage, now, done
        last = done
        if now - said < _EVERY:
            return
        said = now
        left = (now - begun) / (done - first) * (total - done) if done > first else None
        told = "" if left is None else f", about {_duration(left)} left"
        say(f"{printable(stage)}: {done} of {total}{told}")

    return move


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
