"""Where exports go: folders that appear at once and whole, and what may not be written over."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydraopt.adapters.model import Adapter
from hydraopt.adapters.reader import read_adapter
from hydraopt.errors import AdapterFormatError, ExportError, UsageError, explain

__all__ = ["check_file", "check_target", "new_folder", "read_back"]

_DO = "Give another name, or ask to overwrite it (--overwrite, overwrite=True)"


def check_target(target: Path, overwrite: bool) -> None:
    """Raise UsageError if ``target`` is a file, or a folder with files and ``overwrite`` is False.

    An adapter that lies there may be the only copy of what was trained.
    """
    if target.exists() and not target.is_dir():
        raise UsageError(explain("a file is in the way of the folder", file=target))
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise UsageError(explain("folder has files in it", file=target, do=_DO))


def check_file(target: Path, overwrite: bool) -> None:
    """Raise UsageError if ``target`` is a folder, or a file and ``overwrite`` is False."""
    if target.is_dir():
        raise UsageError(explain("a folder is in the way of the file", file=target))
    if target.exists() and not overwrite:
        raise UsageError(explain("file is there already", file=target, do=_DO))


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to write into that becomes ``target`` when the block ends well, else vanishes.

    A new or empty target appears in one step; in one that has files, each file of the same name is
    replaced in one step and the others are left alone. A link is followed.
    """
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if target.is_dir() and any(target.iterdir()):
            for file in sorted(temporary.iterdir(), reverse=True):  # the config last
                os.replace(file, target / file.name)
        else:
            os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_back(path: Path) -> Adapter:
    """What was written, as our own reader sees it: headers, config, shapes and ranks agree.

    Raises ExportError if it is not a whole adapter.
    """
    try:
        return read_adapter(path)
    except AdapterFormatError as error:
        raise ExportError(f"what was to be exported is not a whole adapter: {error}") from error
