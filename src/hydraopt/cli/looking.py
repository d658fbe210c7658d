"""Originals, result files and missing packages, for ``report``, ``eval`` and ``serve``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hydraopt.errors import UsageError, explain
from hydraopt.files.outputs import destination

__all__ = ["check_page", "missing", "originals_option"]

originals_option = click.option(
    "--originals",
    multiple=True,
    metavar="ADAPTERS",
    help="Original adapters of the bundle; several may follow one --originals.",
)


def missing(command: str, error: ModuleNotFoundError, extra: str) -> UsageError:
    """Return the error for a command whose packages are missing. extra: installs them."""
    return UsageError(
        explain(
            f"{command} needs more packages",
            got=f"no module {error.name}",
            do=f"pip install 'hydraopt[{extra}]'",
        )
    )


def check_page(path: str, force: bool, ours: Callable[[bytes], bool]) -> None:
    """Raise UsageError unless ``path`` may be written.

    It may be a new file, a file that ``ours`` recognises by its beginning as written by an earlier
    call, or any file with ``force``.
    """
    target = destination(Path(path))
    if target.is_dir():
        raise UsageError(explain("the output is a folder", file=path, expected="a file name"))
    if not target.parent.is_dir():
        raise UsageError(explain("no such folder", file=target.parent, do="Create it first"))
    if force or not target.exists():
        return
    if not target.is_file() or not ours(_beginning(target)):
        raise UsageError(
            explain(
                "the output exists and hydraopt did not make it",
                file=path,
                do="Choose another name, or pass --force to replace it",
            )
        )


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        start: Any = file.read(1 << 16)
    return bytes(start)
