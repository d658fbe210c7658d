"""``hydraopt``: the group of commands, and the handling of their errors.

Only click is imported at start-up. The module of a command is imported when it is named; numpy,
numpy, torch and rich are imported inside a command after its arguments were checked.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

import click

from hydraopt.capacity import check_memory
from hydraopt.cli.common import open_streams
from hydraopt.cli.failures import Interrupted, failure_of
from hydraopt.version import __version__

__all__ = ["cli", "main"]

LOADED = 700 << 20
"""Bytes of address space that a command needs for its libraries and its work."""
PER_THREAD = 80 << 20
"""Bytes that the two linear algebra libraries reserve for each thread after the second."""
_MADE = (
    "merge", "plan", "inspect", "verify", "export", "shrink", "split", "join", "eval", "serve",
    "pull", "report", "doctor",
)  # fmt: skip
_CHANGED = ("add", "remove", "refresh")
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


class Verbs(MutableMapping[str, click.Command]):
    """Commands by name. The module of a command, hydraopt.cli.NAME, is imported on first use."""

    def __init__(self, names: Sequence[str]) -> None:
        self._made: dict[str, click.Command | None] = dict.fromkeys(names)

    def __getitem__(self, name: str) -> click.Command:
        command = self._made[name]
        if command is None:
            file = importlib.import_module(f"hydraopt.cli.{name}")
            # eval is a builtin function of Python.
            command = self._made[name] = getattr(file, {"eval": "eval_"}.get(name, name))
        return command

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        del self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


class Shell(click.Group):
    """Group that turns errors of commands into messages and exit codes."""

    words: Sequence[str] = ()

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
    commands=Verbs((*_MADE, *_CHANGED)),
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
