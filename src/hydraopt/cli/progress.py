"""Progress of long work on stderr: a bar on a terminal, elsewhere a line now and then.

rich is imported inside the function, so that ``hydraopt --help`` does not wait for it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from hydraopt.cli.common import printable, say_aside, wants_progress
from hydraopt.progress import Progress

__all__ = ["progress_bar", "progress_lines"]

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
        yield progress_lines(say_aside)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    description = TextColumn("{task.description}", markup=False)
    columns = (description, BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        line, stages = bar.add_task("starting", total=None, left=""), _Stages(time.monotonic)
        last = "", 0

        def move(stage: str, done: int, total: int) -> None:
            nonlocal last
            name = _name(stage)
            if name != last[0] or done < last[1]:  # a stage may start over
                bar.reset(line)
            last, left = (name, done), stages.left(stage, done, total)
            bar.update(line, description=printable(stage), completed=done, total=total, left=left)

        yield move


def progress_lines(
    say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
) -> Progress:
    """Return a callback that prints a line every half minute, and where a stage begins after that.

    The line has the stage, its progress, and the time left at the speed so far.
    clock: returns the time in seconds.
    """
    shown, stages, told = clock(), _Stages(clock), False

    def move(stage: str, done: int, total: int) -> None:
        nonlocal shown, told
        begins = told and stages.begins(stage)
        left, now = stages.left(stage, done, total), clock()
        if now - shown < EVERY and not begins:
            return
        shown, told = now, True
        count = "" if stage != _name(stage) else f": {done} of {total}"
        say(printable(stage) + count + (left and f", {left}"))

    return move


def _name(stage: str) -> str:
    """Return the name of a stage without its position after a comma, as in "x, round 2 of 8"."""
    return stage.partition(",")[0]


class _Stages:
    """Speed of the stages.

    The time of a stage that continues after others includes theirs, because the rest of it will
    take them too: sizes are measured in rounds, with passes between them.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: dict[str, tuple[float, int, int]] = {}

    def begins(self, stage: str) -> bool:
        """Return whether nothing was reported of a stage yet."""
        return _name(stage) not in self._known

    def left(self, stage: str, done: int, total: int) -> str:
        """Return the time left in a stage, in words; empty before it can be estimated."""
        now, name = self._clock(), _name(stage)
        start, first, last = self._known.get(name, (now, done, done))
        if done < last:  # it starts over
            start, first = now, done
        self._known[name] = start, first, done
        if done == first:
            return ""
        about = "at most about" if " at most " in stage[len(name) :] else "about"
        return f"{about} {_duration((now - start) / (done - first) * (total - done))} left"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
