"""Shared by the commands: options, JSON and tables on stdout.

rich is imported inside the functions, so that ``hydraopt --help`` does not wait for it.
"""

from __future__ import annotations

import io
import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TextIO, TypeVar

import click

from hydraopt.errors import UsageError, explain
from hydraopt.files.url import Url, is_url

if TYPE_CHECKING:
    from hydraopt.bundle.harm import Harm

__all__ = [
    "HARM_COLUMNS",
    "all_option",
    "cannot_combine",
    "check_local",
    "check_target",
    "emit_json",
    "harm_cells",
    "json_option",
    "mean_and_worst",
    "needs",
    "open_streams",
    "percent",
    "printable",
    "quiet_option",
    "say",
    "say_aside",
    "say_problem",
    "say_raw",
    "show_table",
    "size_text",
    "skip_option",
    "warn",
    "workers_option",
    "worst",
]


_MOST_INDENTED: Final = 1 << 20
"""Characters of a JSON document that people may read."""
_MOST_ROWS: Final = 1000
"""Rows of a table. Drawing takes 100 microseconds a row; --json has all of them."""

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON for machines instead of a table."
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
all_option = click.option(
    "--all", "all_tasks", is_flag=True, help="Show every task, not only the ten worst of many."
)
skip_option = click.option(
    "--skip-unreadable",
    is_flag=True,
    help="Leave out adapters that cannot be read or hold NaN or infinity, and list them.",
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes at most; default one for each core, or one where the work is small. Does not "
    "change the result.",
)


def cannot_combine(option: str, others: Iterable[str], why: str = "") -> click.UsageError:
    """Return the error for an option that was given with others that it excludes."""
    reason = f": {why}" if why else ""
    return click.UsageError(f"{option} cannot be combined with {', '.join(others)}{reason}")


def needs(option: str, *needed: str) -> click.UsageError:
    """Return the error for an option that was given without others that it needs."""
    return click.UsageError(f"{option} needs {' and '.join(needed)}")


def printable(text: str) -> str:
    """The text with what a terminal obeys written out: control characters, line ends, directions.

    Names come from files, which may be anybody's: one may hold a sequence that clears the screen,
    or turns the text around. The two joiners stay, because words of some scripts need them.

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
    """One JSON document on stdout, indented unless it is large; NaN and infinity, which JSON lacks,
    are errors of ours."""
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


def say_problem(text: str) -> None:
    """Print a line about a problem on stdout, also with --quiet."""
    _write(printable(text))


def _is_quiet() -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.params.get("quiet"))


def warn(text: str) -> None:
    """Print a warning on stderr, unless --quiet was given."""
    if not _is_quiet():
        say_aside(f"warning: {text}")


def say_aside(text: str) -> None:
    """A line for people on stderr. A log that is full or gone ends no work: the rest is dropped."""
    try:
        # Named, or it would go by whatever moves a bar there, into the bar's line.
        click.echo(printable(text), file=sys.stderr)
    except OSError:
        _drop(sys.stderr)


def say_raw(text: str) -> None:
    """Text of our own on stdout, line ends and all."""
    _write(text)


def _write(text: str) -> None:
    """Text to stdout. Once its reader has gone, the rest is dropped: the work goes on.

    Raises OSError that names the standard output if it cannot be written otherwise.
    """
    try:
        click.echo(text)
    except OSError as error:
        _drop(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            raise OSError(error.errno, error.strerror, "standard output") from error


def _drop(stream: TextIO) -> None:
    """Let a stream that nobody reads any more go nowhere, with what is still in its buffer."""
    with suppress(OSError, ValueError):  # a stream that is no file has no number
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def open_streams() -> None:
    """Make the three standard streams such that nothing printed can end a command.

    One that is closed goes nowhere; else the next file opened would get its number, and its text.
    What a stream's encoding lacks is written out.
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
    tasks: Sequence[_Task], badness: Callable[[_Task], float | tuple[float, ...]], every: bool
) -> tuple[Sequence[_Task], str | None]:
    """Return the tasks that a table shows, and a line that says what it leaves out.

    All tasks if ``every`` or if they are few, in their order; else the worst, from the worst on.
    """
    if every or len(tasks) <= _FEW:
        return tasks, None
    shown = sorted(tasks, key=badness, reverse=True)[:_WORST]
    return shown, f"tasks   the {_WORST} worst of {len(tasks):,} are shown; --all shows every task"


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
    """A table for people on stdout; columns after the first are numbers and lean right, unless they
    hold words."""
    if _is_quiet():
        return
    from hydraopt.cli.cells import drawn

    page = _Page()
    headings = [printable(column) for column in columns]
    cells = [[printable(str(cell)) for cell in row] for row in rows[:_MOST_ROWS]]
    # A file or a pipe has no width; the default of 80 would cut names that are data there.
    width = None if sys.stdout.isatty() else 140
    drawn(page, width, printable(title), headings, cells, words)
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
    """A bundle may be replaced by a new one; any other file only with --force. folders: a path that
    ends with a slash may be made as one.

    Raises UsageError otherwise. Running a command again works; a mistyped ``-o`` does not destroy
    an adapter.
    """
    if is_url(path):
        _check_address(path, force, folders)
        return
    target = Path(path)
    if folders and path.endswith("/"):
        return
    if target.is_dir():
        do = f"Write {path}/ to get a core file and task files there" if folders else None
        raise UsageError(
            explain("the output is a folder", file=path, expected="a file name", do=do)
        )
    if not target.parent.is_dir():
        raise UsageError(explain("no such folder", file=target.parent, do="Create it first"))
    if force or not target.exists():
        return
    from hydraopt.bundle.kind import is_bundle

    if not is_bundle(target, whole=True):
        _refuse_other(path)


def _check_address(path: str, force: bool, folders: bool) -> None:
    url = Url(path)
    if folders and url.is_folder and url.name and not url.is_web:
        return
    if url.is_web or not url.name or url.is_folder:
        do = "Give the name of an object in a store (s3://, gs://, hf://), or a local file"
        raise UsageError(explain("cannot write to the output", file=url, do=do))
    from hydraopt.bundle.kind import is_bundle
    from hydraopt.files.folders import files_in, is_there

    if not is_there(url):
        # Of a merge it is a folder without the slash, too.
        if not folders and files_in(url):
            raise UsageError(
                explain("the output is a folder", file=url, expected="the name of an object")
            )
    elif not force and not is_bundle(url, whole=True):
        _refuse_other(url)


def _refuse_other(path: object) -> NoReturn:
    do = "Choose another name, or pass --force to replace it"
    raise UsageError(explain("the output exists and is not a bundle", file=path, do=do))


def check_local(output: str) -> None:
    """Raise UsageError for an address where only this machine is written to."""
    if is_url(output):
        do = "Write to a local folder, and copy that with the store's own tool"
        raise UsageError(explain("cannot export to an address", file=Url(output), do=do))


def size_text(count: float) -> str:
    """Bytes for people: "912 B", "46.8 kB", "3.10 MB" (powers of ten)."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if count >= 10**power:
            return f"{count / 10**power:.{2 if count < 10 ** (power + 1) else 1}f} {unit}"
    return f"{count:.0f} B"


HARM_COLUMNS: Final = ("answers that change", "likely", "KL an answer", "held out")


def harm_cells(harm: Harm | None) -> list[str]:
    """Return the harm of a task as four cells under HARM_COLUMNS: "3 of 48", "4.71 %",
    "0.0123 nats", "yes". harm: None where nobody measured.
    """
    if harm is None:
        return ["-"] * len(HARM_COLUMNS)
    return [
        f"{harm.changed:,} of {harm.answers:,}",
        percent(harm.likely),
        f"{harm.kl:.3g} nats",
        "yes" if harm.held_out else "no",
    ]


def percent(share: float) -> str:
    """A share of one as "4.98 %"."""
    return f"{100 * share:.2f} %"
