"""Output paths of a bundle: one file, or a folder of core and task files; local or in a store."""

from __future__ import annotations

import os
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

from hydraopt.bundle.container import BUNDLE_SUFFIX, CORE_SUFFIX, INDEX_NAME
from hydraopt.bundle.writer import PackedBundle
from hydraopt.collection.splitting import split
from hydraopt.errors import UsageError, explain
from hydraopt.files.folders import check_empty, entry_of, files_in, is_folder
from hydraopt.files.lock import locked_if_there
from hydraopt.files.outputs import destination
from hydraopt.files.url import AnyPath, Url, place_of
from hydraopt.files.writing import scratch_folder

StrPath = str | os.PathLike[str]

__all__ = ["as_folder", "check_output", "check_parent", "core_name", "written"]


def as_folder(output: StrPath) -> bool:
    """Return whether the output is a folder with a core file and task files."""
    target = place_of(output)
    if os.fspath(output).endswith(("/", os.sep)):
        return True
    if isinstance(target, Path):
        return target.is_dir()
    # A store has no empty folders; what it would list makes one, also without the slash.
    return not target.is_web and bool(target.name) and is_folder(target) and bool(files_in(target))


def core_name(output: StrPath) -> str | None:
    """Return the name of the core file, if the output is a folder; otherwise None."""
    if not as_folder(output):
        return None
    target = place_of(output)
    name = Path(os.path.abspath(target)).name if isinstance(target, Path) else target.name
    return f"{name}{CORE_SUFFIX}"


def check_output(output: StrPath) -> None:
    """Raise UsageError for an output that cannot be written, or a folder that is not empty."""
    target = destination(output)
    if isinstance(target, Url) and (target.is_web or not target.name):
        what = "nothing can be written over HTTP" if target.is_web else "the output has no name"
        do = "Give the name of an object in a store (s3://, gs://, hf://), or a local file"
        raise UsageError(explain(what, file=target, do=do))
    if not as_folder(output):
        check_parent(target)
        return
    if isinstance(target, Path) and not target.is_dir():
        if target.exists():
            raise UsageError(explain("a file is in the way of the folder", file=target))
        return
    check_empty(target, "Empty it, or name another")


def check_parent(target: AnyPath) -> None:
    """Raise UsageError for a file here whose folder is not there, or may not be written to."""
    if not isinstance(target, Path):
        return
    parent = destination(target).parent
    if parent.is_dir() and os.access(parent, os.W_OK):
        return
    what = "may not be written to" if parent.is_dir() else "is not there"
    do = "Make it, or name an output elsewhere"
    raise UsageError(explain(f"the output's folder {what}", file=target, got=parent, do=do))


def written(packed: PackedBundle, output: StrPath) -> int:
    """Write a file, or a folder of a core, its tasks and their index, and return the bytes.

    The output may be in a store. Raises LockedError for a file that is being changed.
    """
    if not as_folder(output):
        with locked_if_there(output):
            return packed.write(destination(output))
    target = place_of(output)
    made: AbstractContextManager[str | Path]
    if isinstance(target, Path):
        target = destination(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        made = scratch_folder(target)
    else:
        made = tempfile.TemporaryDirectory()
    with made as scratch:
        core = core_name(output) or ""
        whole = Path(scratch) / f"{core.removesuffix(CORE_SUFFIX)}{BUNDLE_SUFFIX}"
        packed.write(whole)
        parts = sum(file.size for file in split(whole, target))
    return parts + (entry_of(target / INDEX_NAME).size or 0)
