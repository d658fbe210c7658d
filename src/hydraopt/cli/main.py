"""``hydraopt``: the group of commands, and the messages and exit codes of their errors.

2 is an error that the user can correct, 70 an error in hydraopt itself; 1 is left to ``verify`` and
``doctor``. With HYDRAOPT_TRACEBACK=1, the traceback is printed as well.

Only click is imported at start-up. The module of a command is imported when it is named; numpy,
numpy, torch and rich are imported inside a command after its arguments were checked.
"""

from __future__ import annotations

import errno
import gc
import importlib
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import click

from hydraopt.cli.terminal import open_streams, printable
from hydraopt.codec import check_memory
from hydraopt.errors import HydraoptError
from hydraopt.version import __version__

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


LOADED = 700 << 20
"""Bytes of address space that a command needs for its libraries and its work."""
PER_THREAD = 80 << 20
"""Bytes that the two linear algebra libraries reserve for each thread after the second."""
_YOUNG = 100_000
"""Number of new objects after which Python collects garbage.

Imports create tens of thousands of objects that stay. With Python's default of 700, collections
take a tenth of the time of a short command.
"""


class EndedError(BaseException):
    """End of the process by SIGTERM or SIGHUP; temporary files are removed on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


COMMANDS: Final[Mapping[str, str]] = {
    "add": "editing",
    "doctor": "inspect",
    "eval": "eval",
    "export": "moving",
    "inspect": "inspect",
    "join": "moving",
    "merge": "merging",
    "plan": "merging",
    "pull": "moving",
    "refresh": "editing",
    "remove": "editing",
    "report": "report",
    "serve": "serve",
    "shrink": "merging",
    "split": "moving",
    "verify": "verify",
}
"""Module of hydraopt.cli that has the command; it is imported when the command is used."""


def command_named(name: str) -> click.Command:
    """Import and return the command of that name."""
    module = importlib.import_module(f"hydraopt.cli.{COMMANDS[name]}")
    # eval is a builtin function of Python.
    command: click.Command = getattr(module, {"eval": "eval_"}.get(name, name))
    return command


class Shell(click.Group):
    """Group that turns errors of commands into messages and exit codes."""

    words: Sequence[str] = ()

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*COMMANDS, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            return command_named(cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and not {"-h", "--help"} & set(rest):
            check_memory(LOADED + PER_THREAD * max((os.cpu_count() or 1) - 2, 0))
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted; no output was left half written.") from None
        except (click.exceptions.Exit, click.exceptions.Abort):
            raise
        except Exception as error:
            raise failure_of(error, self.words) from error

    def main(  # type: ignore[override]  # click's has one signature for each mode
        self, args: Sequence[str] | None = None, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Run a command, and exit with 1 only if it returned 1.

        click exits with 1 also for Ctrl-C, and if the reader of the output has gone.
        """
        self.words = list(sys.argv[1:] if args is None else args)
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **extra)
        try:
            code = super().main(args, standalone_mode=False, **extra)
        except click.ClickException as error:
            with suppress(OSError):
                error.show()
            sys.exit(error.exit_code)
        except click.exceptions.Abort:
            sys.exit(Interrupted.exit_code)
        except EndedError as end:
            sys.exit(end.exit_code)
        except SystemExit:  # from click, if the reader of the help has gone
            sys.exit(0)
        sys.exit(code if isinstance(code, int) else 0)


@click.group(
    cls=Shell,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="hydraopt")
def cli() -> None:
    """Merge many LoRA adapters of one base model into one small file, and restore each of them.

    Exit codes: 0 done, 1 verify or doctor found problems, 2 error that the user can correct (the
    reason is on stderr), 70 unexpected error (HYDRAOPT_TRACEBACK=1 shows where), 130 interrupted,
    143 or 129 terminated.

    \b
    Example:
      hydraopt merge adapters/* --size 5% -o phone.hydra.safetensors
      hydraopt inspect phone.hydra.safetensors
      hydraopt export phone.hydra.safetensors numbers-de -o numbers-de
    """


def end_in_order() -> None:
    """Make SIGTERM and SIGHUP end the process as Ctrl-C does, unless they have other handlers.

    A signal that comes again while the process ends is ignored.
    """
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _ended)


def _ended(number: int, _frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt if number == signal.SIGINT else EndedError(number)


def main() -> None:
    """Run the ``hydraopt`` command."""
    gc.set_threshold(_YOUNG)
    end_in_order()
    open_streams()
    cli()
