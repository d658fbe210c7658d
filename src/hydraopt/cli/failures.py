"""Errors of commands: messages on stderr and exit codes.

2 is an error that the user can correct, 70 an error in hydraopt itself; 1 is left to ``verify`` and
``doctor``. With HYDRAOPT_TRACEBACK=1, the traceback is printed as well.
"""

from __future__ import annotations

import errno
import os
import shlex
import traceback
from collections.abc import Sequence

import click

from hydraopt.cli.common import printable
from hydraopt.errors import HydraoptError

__all__ = ["Interrupted", "failure_of"]

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


class Failure(click.ClickException):
    """Error that the user can correct."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(map(printable, message.split("\n"))))


class Unforeseen(Failure):
    """Error in hydraopt itself."""

    exit_code = 70


class Interrupted(Failure):
    """Interruption by Ctrl-C."""

    exit_code = 130


def failure_of(error: Exception, words: Sequence[str]) -> click.ClickException:
    """Turn an error that a command raised into a message and an exit code.

    words: the command line without "hydraopt". Errors that name no file are reported with it.
    """
    if os.environ.get("HYDRAOPT_TRACEBACK", "0") not in ("", "0"):
        for line in "".join(traceback.format_exception(error)).splitlines():
            click.echo(printable(line), err=True)
    if isinstance(error, click.ClickException):
        message = Failure(error.format_message()).message
        return click.UsageError(message, ctx=getattr(error, "ctx", None))
    if isinstance(error, HydraoptError):
        return Failure(str(error))
    line = _clip(shlex.join(["hydraopt", *words]))
    got = _clip(printable(f"{type(error).__name__}: {error}".rstrip(": ")))
    if _is_memory(error):
        do = "Allow the process more memory, or give the command fewer files"
        return Failure(f"memory ran out [{line}]; got {got}. {do}.")
    if isinstance(error, OSError):
        place = line if error.filename is None else os.fsdecode(str(error.filename))
        message = f"{error.strerror or got} [{place}]"
        remedy = _REMEDIES.get(error.errno or 0)
        return Failure(f"{message}. {remedy}." if remedy else message)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Unforeseen(
        f"unexpected error; got {got} at {os.path.basename(last.filename)}:{last.lineno}. Please "
        f"report this bug of hydraopt, with the output of: HYDRAOPT_TRACEBACK=1 {line}"
    )


def _is_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    message = str(error).lower()
    unsure = (ImportError, RuntimeError, OSError)
    return isinstance(error, unsure) and any(words in message for words in _NO_MEMORY)


def _clip(text: str) -> str:
    """Return the text without its middle if it is long; outputs are often named last."""
    return text if len(text) <= 400 else f"{text[:200]} ... {text[-200:]}"
