"""Replacing the files of a folder one by one.

A folder is not exchanged for another in one step: few systems can, something may be mounted at it
or in it, and a shell may work in it.

All new files lie in the folder, complete, before the first of them takes its place: in a folder
".replacing.tmp", which appears in one step. A writer that is killed before leaves the old files;
after it, what the next writer finishes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Final

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked.
    fcntl = None  # type: ignore[assignment]

from hydraopt.errors import LockedError, UsageError, explain
from hydraopt.files.parts import CORE_SUFFIX
from hydraopt.files.reading import read_regular

__all__ = ["NEW", "finish_replacing", "is_unfinished", "replace_one_by_one", "sync_folder"]

NEW: Final = "new"
"""Name of the folder for new files inside the scratch folder."""
_REPLACING: Final = ".replacing.tmp"
_GONE: Final = "gone"
"""Name of the file that lists the files to remove; without it all work is done."""
_MOST_GONE: Final = 1 << 30
"""Maximum bytes of the list."""
_STOPS: Final = (".json", CORE_SUFFIX)
"""Endings of the files without which no loader takes a folder for an adapter, a model or a
collection."""


def is_unfinished(folder: Path) -> bool:
    """Return True if a writer is replacing the folder's files, or was killed while doing so."""
    return os.path.lexists(folder / _REPLACING)


def replace_one_by_one(scratch: Path, folder: Path, gone: Collection[str]) -> None:
    """Put the synced files of ``scratch / NEW`` into a folder and remove those named ``gone``.

    Raises OSError, before anything changes, if a folder has a file's name.

    scratch: a folder of the same file system, which becomes a part of the folder, and then
    vanishes. Its lock is the caller's.
    """
    for name in os.listdir(scratch / NEW):
        if (folder / name).is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder is in the way", str(folder / name))
    with (scratch / _GONE).open("xb") as stream:
        stream.write(b"\0".join(map(os.fsencode, sorted(gone))))
        stream.flush()
        os.fsync(stream.fileno())
    sync_folder(scratch)
    os.rename(scratch, folder / _REPLACING)
    sync_folder(folder)
    _roll_forward(folder)


def finish_replacing(folder: Path) -> None:
    """Finish the work of a killed writer in a folder.

    Raises LockedError if the writer lives, UsageError for files that no writer left, and OSError.
    """
    if not is_unfinished(folder):
        return
    pending = folder / _REPLACING
    if pending.is_symlink() or not pending.is_dir() or (pending / NEW).is_symlink():
        raise _refused(pending)
    if fcntl is None:
        _roll_forward(folder)
        return
    descriptor = os.open(pending, os.O_RDONLY)
    try:
        _lock(descriptor, folder)
        if os.fstat(descriptor).st_nlink > 0:
            _roll_forward(folder)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        what = "another process is replacing the files of the folder"
        do = "Wait until it is done, and try again"
        raise LockedError(explain(what, file=folder, do=do)) from None
    except OSError:
        pass  # some network file systems have no locks


def _roll_forward(folder: Path) -> None:
    """Remove old files and put new ones in place, as far as that is not done.

    Files that loaders look for go first and come last, so that in between they find no adapter, no
    model and no collection.
    """
    pending = folder / _REPLACING
    try:
        gone = _names_in(pending / _GONE)
    except FileNotFoundError:
        shutil.rmtree(pending, ignore_errors=True)
        return
    new = sorted(os.listdir(pending / NEW))
    stops = [x for x in new if x.endswith(_STOPS)]
    for name in sorted({*gone, *stops}, key=lambda x: (not x.endswith(_STOPS), x)):
        if not (folder / name).is_dir():
            (folder / name).unlink(missing_ok=True)
    sync_folder(folder)
    for name in [*(x for x in new if not x.endswith(_STOPS)), *stops]:
        os.replace(pending / NEW / name, folder / name)
    sync_folder(folder)
    (pending / _GONE).unlink()
    shutil.rmtree(pending, ignore_errors=True)


def _names_in(file: Path) -> list[str]:
    """Return the names in a list.

    Raises UsageError for an invalid list, FileNotFoundError, OSError.
    """
    names = [os.fsdecode(x) for x in read_regular(file, _MOST_GONE).split(b"\0") if x]
    if any(x in (".", "..") or os.path.basename(x) != x for x in names):
        raise _refused(file.parent)
    return names


def _refused(pending: Path) -> UsageError:
    do = "Look at what is in it, and delete it"
    return UsageError(explain("a folder has a name that writers give theirs", file=pending, do=do))


def sync_folder(folder: Path) -> None:
    """Make a new name in a folder survive a power cut, if the system can open folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
