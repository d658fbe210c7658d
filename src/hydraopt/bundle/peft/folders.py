"""Target folders of exports: refuse to overwrite, and check that written adapters are complete."""

from __future__ import annotations

from pathlib import Path

from hydraopt.adapters.model import Adapter
from hydraopt.adapters.reader import read_adapter
from hydraopt.errors import AdapterFormatError, ExportError, UsageError, explain
from hydraopt.files.outputs import destination

__all__ = ["check_file", "check_target", "read_back"]

_DO = "Give another name, or overwrite it with --force (overwrite=True)"


def check_target(target: Path, overwrite: bool) -> None:
    """Raise UsageError if ``target`` is a file, or a folder with files and not ``overwrite``.

    Raises also as :func:`hydraopt.files.outputs.destination`.

    An adapter that lies there may be the only copy of what was trained.
    """
    destination(target)
    if target.exists() and not target.is_dir():
        raise UsageError(explain("a file is in the way of the folder", file=target))
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise UsageError(explain("folder has files in it", file=target, do=_DO))


def check_file(target: Path, overwrite: bool) -> None:
    """Raise UsageError if ``target`` is a folder, or a file and not ``overwrite``.

    Raises also as :func:`hydraopt.files.outputs.destination`.
    """
    destination(target)
    if target.is_dir():
        raise UsageError(explain("a folder is in the way of the file", file=target))
    if target.exists() and not overwrite:
        raise UsageError(explain("file is there already", file=target, do=_DO))


def read_back(path: Path) -> Adapter:
    """Read a written adapter back with our own reader.

    The reader checks that headers, config, shapes and ranks agree.
    Raises ExportError if it is not a whole adapter.
    """
    try:
        return read_adapter(path)
    except AdapterFormatError as error:
        raise ExportError(
            error.within("what was to be exported is not a whole adapter: ")
        ) from error
