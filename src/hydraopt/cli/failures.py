"""Errors of commands: messages on stderr and exit codes.

2 is an error that the user can correct, 70 an error in hydraopt itself; 1 is left to ``verify`` and
``doctor``. With HYDRAOPT_TRACEBACK=1, the traceback is printed as well.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator

import click

from hydraopt.cli.common import printable
from hydraopt.cli.moved import instead_of
from hydraopt.errors import BaseMismatchError, BatchError, HydraoptError

__all__ = ["Doing", "Interrupted", "Refused", "Unforeseen", "failure_of"]

_REMEDIES = {
    errno.ENOSPC: "Make room, or write elsewhere",
    errno.EDQUOT: "Make room, or write elsewhere",
    errno.EACCES: "Change its permissions, or choose another",
    errno.EPERM: "Change its permissions, or choose another",
    errno.EROFS: "Write elsewhere",
    errno.EMFILE: "Raise the limit of open files (ulimit -n)",
    errno.ENFILE: "Close other programs",
}
# Messages of C libraries that have no exception for it.
_NO_MEMORY = (
    "failed to map segment",
    "cannot allocate memory",
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
)


class Doing:
    """Command that is running, and the files that it was given."""

    def __init__(self, ctx: click.Context, name: str, command: click.Command, words: list[str]):
        self.name, self.words, self._command = name, list(words), command
        with command.make_context(
            name, list(words), parent=ctx, resilient_parsing=True
        ) as given:  # parse again: the context of a failed command is gone
            arguments = [x.name for x in command.params if isinstance(x, click.Argument)]
            values = given.params
            self.files = [str(x) for key in arguments for x in _several(values.get(key or ""))]
            self.files += [str(x) for x in _several(values.get("base"))]
            self.output = values.get("output") or values.get("plot")

    @property
    def place(self) -> str:
        """Return the files, or the first few of many: "a, b and 7 more"."""
        named = self.files + ([f"output {self.output}"] if self.output else [])
        first, rest = named[:4], named[4:]
        if rest and self.output:
            first, rest = [*named[:3], named[-1]], named[3:-1]
        return ", ".join(first) + (f" and {len(rest)} more" if rest else "") or "no file"

    @property
    def line(self) -> str:
        """Return the command as it could be typed."""
        import shlex

        return shlex.join(["hydraopt", self.name, *self.words])

    def instead(self, files: Iterable[str], suffix: str) -> str:
        """Return the command with other files, and NAME-SUFFIX as the output."""
        import shlex

        takes_value = {
            word
            for option in self._command.params
            if isinstance(option, click.Option) and not option.is_flag and not option.count
            for word in option.opts
        }
        mine, words, before = list(self.files), [], ""
        for word in self.words:
            if before in takes_value or word not in mine:
                name, equals, value = word.partition("=")
                if self.output and before in ("-o", "--output"):
                    word = _apart(word, suffix)
                elif self.output and name == "--output" and equals:
                    word = f"{name}={_apart(value, suffix)}"
                words.append(word)
            else:
                mine.remove(word)
            before = word
        return shlex.join(["hydraopt", self.name, *files, *words])


def _apart(output: str, suffix: str) -> str:
    """Return the name of an output with ``suffix`` before its file extensions."""
    folder, slash, name = output.rstrip("/").rpartition("/")
    stem, dot, ending = name.partition(".")
    return f"{folder}{slash}{stem}-{suffix}{dot}{ending}{'/' * output.endswith('/')}"


def _commands(error: HydraoptError, doing: Doing | None) -> Iterator[str]:
    """Yield lines with a merge command for each group of adapters that fit together."""
    problems = error.problems if isinstance(error, BatchError) else (error,)
    apart = next((x for x in problems if isinstance(x, BaseMismatchError) and x.paths), None)
    if apart is None or doing is None or doing.name != "merge":
        return
    yield "To merge each group on its own:"
    labels = [_label(base) for base, _ in apart.groups]
    for i, (label, (_, names)) in enumerate(zip(labels, apart.groups, strict=True)):
        suffix = f"{label}-{labels[:i].count(label) + 1}" if labels.count(label) > 1 else label
        yield f"  {doing.instead([apart.paths[name] for name in names], suffix)}"


def _label(base: str) -> str:
    """Return the name of a base model in a form for file names."""
    last = "unnamed" if base.startswith("(") else re.split(r"[/\\\\]", base.rstrip("/\\"))[-1]
    return re.sub(r"[^\w.-]+", "-", last)[:80].strip("-.") or "base"


def _several(value: object) -> Iterable[object]:
    if value is None:
        return ()
    return value if isinstance(value, tuple | list) else (value,)


class Refused(click.ClickException):
    """Error that the user can correct."""

    exit_code = 2

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(map(printable, lines)))


class Unforeseen(Refused):
    """Error in hydraopt itself."""

    exit_code = 70


class Interrupted(Refused):
    """Interruption by Ctrl-C."""

    exit_code = 130


def failure_of(error: Exception, doing: Doing | None) -> click.ClickException:
    """Turn an error that a command raised into a message and an exit code."""
    if os.environ.get("HYDRAOPT_TRACEBACK", "0") not in ("", "0"):
        for line in "".join(traceback.format_exception(error)).splitlines():
            click.echo(printable(line), err=True)
    if isinstance(error, click.ClickException):
        message = instead_of(error) or error.format_message()
        lines = "\n".join(map(printable, message.split("\n")))
        return click.UsageError(lines, ctx=getattr(error, "ctx", None))
    if isinstance(error, HydraoptError):
        parts = str(error).split("\n") if isinstance(error, BatchError) else [str(error)]
        return Refused(*parts, *_commands(error, doing))
    place = doing.place if doing else "no file"
    if _is_memory(error):
        message = f"memory ran out [{place}]; got {_clipped(error)}"
        return Refused(
            f"{message}. Allow the process more memory, or give the command fewer files."
        )
    if isinstance(error, OSError):
        return Refused(_system(error, doing))
    return Unforeseen(_bug(error, doing))


def _is_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    message = str(error).lower()
    unsure = (ImportError, RuntimeError, OSError)
    return isinstance(error, unsure) and any(words in message for words in _NO_MEMORY)


def _system(error: OSError, doing: Doing | None) -> str:
    """Describe an error of the system. One that names no file comes from writing the output."""
    place: object = error.filename
    if place is None and doing is not None:
        place = f"output {doing.output}" if doing.output else doing.place
    if isinstance(place, bytes):
        place = os.fsdecode(place)
    remedy = _REMEDIES.get(error.errno or 0)
    message = f"{error.strerror or _clipped(error)} [{'no file' if place is None else place}]"
    return f"{message}. {remedy}." if remedy else message


def _bug(error: Exception, doing: Doing | None) -> str:
    what = f"{doing.name} failed with an unexpected error" if doing else "hydraopt failed"
    where = f"[{doing.place}]" if doing else "[no file]"
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "hydraopt" in frame.filename] or frames
    last = ours[-1] if ours else None
    at = f" at {os.path.basename(last.filename)}:{last.lineno}" if last else ""
    import shlex

    again = _clip(doing.line) if doing else shlex.join(sys.argv)
    return (
        f"{what} {where}; got {_clipped(error)}{at}. Please report this bug of hydraopt, with the "
        f"output of: HYDRAOPT_TRACEBACK=1 {again}"
    )


def _clipped(error: BaseException) -> str:
    return _clip(f"{type(error).__name__}: {error}".rstrip(": "))


def _clip(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:300]}..."
