"""Separation of outputs from inputs: an output must not be, contain or lie in an input."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from hydraopt.errors import UsageError, explain
from hydraopt.files.url import Url, is_url, place_of

__all__ = ["check_apart"]


def check_apart(output: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Raise UsageError if the output is one of the inputs, lies in one, or is around one.

    Links are followed, and another hard link to an input counts as the input.
    """
    if is_url(output):
        _check_addresses(Url(os.fspath(output)), inputs)
        return
    target = Path(os.path.realpath(place_of(output)))
    for given in inputs:
        if is_url(given):
            continue
        source = Path(os.path.realpath(place_of(given)))
        if target == source or _same(target, source):
            _refuse(output, given, "is")
        if source.is_dir() and source in target.parents:
            _refuse(output, given, "lies in")
        if target in source.parents:
            _refuse(output, given, "is around")


def _check_addresses(target: Url, inputs: Iterable[str | os.PathLike[str]]) -> None:
    for source in (Url(os.fspath(x)) for x in inputs if is_url(x)):
        if target == source:
            _refuse(target, source, "is")
        if target.under(source):
            _refuse(target, source, "lies in")
        if source.under(target):
            _refuse(target, source, "is around")


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _refuse(output: str | os.PathLike[str], given: str | os.PathLike[str], how: str) -> None:
    raise UsageError(
        explain(
            f"the output {how} what is read",
            file=output,
            got=f"the input {given}",
            do="Give an output of its own",
        )
    )
