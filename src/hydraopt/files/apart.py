"""Outputs apart from inputs: what is written must not be, hold or lie in what is read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from hydraopt.errors import UsageError, explain

__all__ = ["check_apart"]


def check_apart(output: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Raise UsageError if the output is one of the inputs, lies in one, or is around one.

    Links are followed, and another hard link to an input counts as the input.
    """
    target = Path(os.path.realpath(output))
    for given in inputs:
        source = Path(os.path.realpath(given))
        if target == source or _same(target, source):
            _refuse(output, given, "is")
        if source.is_dir() and source in target.parents:
            _refuse(output, given, "lies in")
        if target in source.parents:
            _refuse(output, given, "is around")


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _refuse(output: str | os.PathLike[str], given: str | os.PathLike[str], how: str) -> None:
    raise UsageError(
        explain(
            f"the output {how} what is read",
            file=os.fspath(output),
            got=f"the input {os.fspath(given)}",
            do="Give an output of its own",
        )
    )
