"""Output of the commands: lines, tables, JSON on stdout; warnings and progress on stderr.

rich is imported inside the functions, so that ``hydraopt --help`` does not wait for it.

rich is imported inside the function, so that ``hydraopt --help`` does not wait for it.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeVar

import click

from hydraopt.errors import UsageError, explain
from hydraopt.files import Url, is_url, place_of
from hydraopt.notes import Note
from hydraopt.progress import Progress

if TYPE_CHECKING:
    from hydraopt.bundle import Harm

QUIET: Final = "hydraopt.quiet"
"""Key of --quiet in the ``meta`` of a click context."""
_MOST_INDENTED: Final = 1 << 20
"""Largest JSON document that is indented, in characters."""
_MOST_ROWS: Final = 1000
"""Maximum number of rows drawn; --json has all. Drawing takes 100 microseconds per row."""


def cannot_combine(option: str, others: Iterable[str], why: str = "") -> click.UsageError:
    """Return the error for an option that was given with others that it excludes."""
    reason = f": {why}" if why else ""
    return click.UsageError(f"{option} cannot be combined with {', '.join(others)}{reason}")


def needs(option: str, *needed: str) -> click.UsageError:
    """Return the error for an option that was given without others that it needs."""
    return click.UsageError(f"{option} needs {' and '.join(needed)}")


def printable(text: str) -> str:
    """Return the text with control characters, line ends and text directions as escapes.

    Names come from files of unknown origin, and may contain sequences that clear the screen or
    reverse the text. The two joiners are kept because words of some scripts need them.

    >>> print(printable("a\\x1b[2J\\u202eb\\n"))
    a\\x1b[2J\\u202eb\\n
    """
    if text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char) in _OBEYED and char not in _JOINERS
        else char
        for char in text
    )


_OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"


def emit_json(value: Any) -> None:
    """Print one JSON document on stdout, indented unless it is large.

    Raises ValueError for NaN and infinity, which JSON does not have.
    """
    text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    # Indenting takes 20 times the time and 50 times the memory.
    indent = 2 if len(text) <= _MOST_INDENTED else None
    if indent:
        text = json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
        plain = all(line.isprintable() for line in text.split("\n"))
    except UnicodeEncodeError:
        plain = False
    _write(text if plain else json.dumps(value, indent=indent, allow_nan=False))


def say(text: str) -> None:
    """Print a line for people on stdout, unless --quiet was given."""
    if not _is_quiet():
        _write(printable(text))


def say_always(text: str) -> None:
    """Print a line on stdout, also with --quiet."""
    _write(printable(text))


def _is_quiet() -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(QUIET))


def wants_progress() -> bool:
    """Return True if the running command may report progress: without --json and --quiet."""
    context = click.get_current_context(silent=True)
    return not _is_quiet() and not (context and context.params.get("as_json"))


def say_notes(notes: Iterable[Note]) -> None:
    """Print notes for people on stdout, unless --quiet was given."""
    for note in notes:
        say(f"note: {note.text}")


def warn(note: Note) -> None:
    """Print a note as a warning on stderr, unless --quiet was given."""
    if not _is_quiet():
        say_aside(f"warning: {note.text}")


def say_aside(text: str) -> None:
    """Print a line for people on stderr; if stderr is full or closed, drop the rest and go on."""
    try:
        # Without file=, click would bypass the progress bar and write into its line.
        click.echo(printable(text), file=sys.stderr)
    except OSError:
        _drop(sys.stderr)


def _write(text: str) -> None:
    """Write text to stdout; if its reader has gone, drop the rest and go on.

    Raises OSError that names the standard output if writing fails for another reason.
    """
    try:
        click.echo(text)
    except OSError as error:
        _drop(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            raise OSError(error.errno, error.strerror, "standard output") from error


def _drop(stream: TextIO) -> None:
    """Redirect a stream that has no reader to nowhere, including the rest of its buffer."""
    with suppress(OSError, ValueError):  # a stream that is not a file has no number
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def open_streams() -> None:
    """Prepare the three standard streams so that printing cannot end a command.

    A closed stream goes nowhere; otherwise the next file opened would get its number and its text.
    Characters that the encoding of a stream lacks are written as escapes.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115  # stays open
            setattr(sys, name, nowhere)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def worst(
    tasks: Sequence[_Task], badness: Callable[[_Task], float | tuple[float, ...]]
) -> tuple[Sequence[_Task], str | None]:
    """Return the tasks for a table, and a line about those left out, if any.

    Few tasks are shown in their order. Of many tasks, only the worst are shown, worst first.
    """
    if len(tasks) <= _FEW:
        return tasks, None
    shown = sorted(tasks, key=badness, reverse=True)[:_WORST]
    return shown, f"tasks   the {_WORST} worst of {len(tasks):,} are shown; --json has every task"


def mean_and_worst(errors: Sequence[float]) -> str:
    """Describe errors: "0.0312 mean, 0.0497 worst"."""
    return f"{sum(errors) / len(errors):.4f} mean, {max(errors):.4f} worst" if errors else "-"


_Task = TypeVar("_Task")
_FEW: Final = 20
_WORST: Final = 10


def show_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    words: bool = False,
) -> None:
    """Print a table for people on stdout.

    words: align all columns left. By default, columns after the first hold numbers and are aligned
    right.
    """
    if _is_quiet():
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def cell(value: object) -> Text:
        return Text(printable(str(value)))  # never interpreted as markup

    table = Table(title=cell(title), title_justify="left", box=box.SIMPLE_HEAD)
    for i, column in enumerate(columns):
        table.add_column(
            cell(column), justify="right" if i and not words else "left", overflow="fold"
        )
    for row in rows[:_MOST_ROWS]:
        table.add_row(*map(cell, row))
    page = _Page()
    # A file or a pipe has no width, and the default of 80 would break names that scripts read.
    width = None if sys.stdout.isatty() else 140
    Console(file=page, highlight=False, width=width).print(table)
    _write(page.getvalue().removesuffix("\n"))
    if len(rows) > _MOST_ROWS:
        say(f"{len(rows) - _MOST_ROWS:,} more rows are not shown.")


class _Page(io.StringIO):
    """Buffer for a table, with the encoding and colours of stdout."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(sys.stdout, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return sys.stdout.isatty()


def check_target(path: str, force: bool, folders: bool = False) -> None:
    """Raise UsageError unless the output may be written.

    A bundle may be replaced by a new one, so a command can be run again. Any other file is replaced
    only with ``force``, so a mistyped ``-o`` does not destroy an adapter.
    folders: permit a folder of core and task files: a path that ends with a slash, or a place in a
        store that holds files.
    """
    from hydraopt.bundle import as_folder, check_output, is_bundle
    from hydraopt.files import is_there

    target = place_of(path)
    if as_folder(path) and not (folders and (path.endswith("/") or isinstance(target, Url))):
        do = f"Write {path}/ to get a core file and task files there" if folders else None
        raise UsageError(
            explain("the output is a folder", file=path, expected="a file name", do=do)
        )
    check_output(path)
    there = target.exists() if isinstance(target, Path) else is_there(target)
    if force or as_folder(path) or not there or is_bundle(target, whole=True):
        return
    do = "Choose another name, or pass --force to replace it"
    raise UsageError(explain("the output exists and is not a bundle", file=path, do=do))


def check_local(output: str) -> None:
    """Raise UsageError for an address, for commands that write to this machine only."""
    if is_url(output):
        do = "Write to a local folder, and copy that with the store's own tool"
        raise UsageError(explain("cannot export to an address", file=Url(output), do=do))


def size_text(count: float) -> str:
    """Format bytes for people: "912 B", "46.8 kB", "3.10 MB" (powers of ten)."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if count >= 10**power:
            return f"{count / 10**power:.{2 if count < 10 ** (power + 1) else 1}f} {unit}"
    return f"{count:.0f} B"


HARM_COLUMNS: Final = ("answers that change", "likely", "KL an answer", "seen by a refit")


def harm_cells(harm: Harm | None) -> list[str]:
    """Return the harm of a task as cells of a table with HARM_COLUMNS.

    For example "3 of 48", "4.71 %", "0.0123 nats", "no".
    harm: None if it was not measured.
    """
    if harm is None:
        return ["-"] * len(HARM_COLUMNS)
    return [
        f"{harm.changed:,} of {harm.answers:,}",
        percent(harm.likely),
        f"{harm.kl:.3g} nats",
        "no" if harm.held_out else "some",
    ]


def percent(share: float) -> str:
    """Format a share: 0.0498 becomes "4.98 %"."""
    return f"{100 * share:.2f} %"


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
