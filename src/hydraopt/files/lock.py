"""Lock for one writer at a time, beside the file to write; refused at once if it is held.

The lock is the system's, on a file ".NAME.lock", so it ends with its holder in every case, and a
leftover file blocks nobody. The file names the holder, for the message alone.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked.
    fcntl = None  # type: ignore[assignment]

from hydraopt.errors import LockedError, UsageError, explain
from hydraopt.files.folders import ALL_FILES, is_there, lock_name
from hydraopt.files.outputs import destination
from hydraopt.files.replacing import finish_replacing
from hydraopt.files.url import AnyPath, place_of

__all__ = ["locked", "locked_folder", "locked_if_there"]

_NO_FILE: Final = (errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO)
"""Codes of systems that refuse to open a link, a folder or a socket."""


@contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold the lock of a file or folder, see :func:`hydraopt.files.outputs.destination`.

    The lock of an address lies in the store.

    Raises LockedError, naming the process, if another one holds it, UsageError for a link at the
    lock's name, and OSError if the lock file cannot be made.
    """
    with _held(destination(path), path):
        yield


@contextmanager
def locked_folder(folder: AnyPath) -> Iterator[None]:
    """Hold the lock of the files in a folder, which lies in the folder; raises as :func:`locked`.

    Unfinished work of a killed writer is done first, see :mod:`hydraopt.files.replacing`.
    """
    real = destination(folder)
    with _held(real / ALL_FILES, folder):
        if isinstance(real, Path):
            finish_replacing(real)
        yield


@contextmanager
def locked_if_there(path: str | os.PathLike[str]) -> Iterator[None]:
    """Lock a file before it is overwritten, as :func:`locked`; do nothing if there is no file."""
    if not is_there(place_of(path)):
        yield
        return
    with locked(path):
        yield


@contextmanager
def _held(place: AnyPath, path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold the lock beside ``place``. path: what people know it by."""
    if not isinstance(place, Path):
        from hydraopt.files.remotelock import locked_in_store  # who locks here needs no store

        with locked_in_store(place, path):
            yield
        return
    if fcntl is None:
        yield
        return
    lock = place.with_name(lock_name(place.name))
    descriptor = _taken(lock, path)
    try:
        yield
    finally:
        # Before the lock goes: a file that is unlinked later might be somebody else's by then.
        with suppress(OSError):
            lock.unlink()
        os.close(descriptor)


def _taken(lock: Path, path: str | os.PathLike[str]) -> int:
    """Return a descriptor that holds the lock on the file of that name."""
    while True:
        descriptor = _opened(lock)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, lock):
                if os.fstat(descriptor).st_nlink == 1:
                    with suppress(OSError):  # a lock of another user can be held, but not written
                        os.ftruncate(descriptor, 0)
                        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                    return descriptor
                # A hard link to another file, which is not to be written. Its name goes, as when a
                # holder ends: whoever waits for it looks for the file again.
                lock.unlink()
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise LockedError(
                explain(
                    "another process is changing the collection",
                    file=os.fspath(path),
                    got=f"a lock of process {holder}" if holder.isdecimal() else "a lock",
                    do="Wait until it is done, and try again",
                )
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # Its holder has just removed it: there is a new one, or none.


def _opened(lock: Path) -> int:
    """Open the lock file, creating it if missing; one of another user is opened for reading.

    Raises UsageError for a link or anything else that is not a regular file.
    """
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | os.O_NONBLOCK
    try:
        descriptor = os.open(lock, flags | os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError as error:
        try:
            descriptor = os.open(lock, flags | os.O_RDONLY)
        except FileNotFoundError:
            raise error from None
    except OSError as error:
        if error.errno in _NO_FILE:
            raise _refused(lock) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _refused(lock)
    return descriptor


def _refused(lock: Path) -> UsageError:
    do = "Look at what it is, and delete it"
    return UsageError(explain("the name of a lock is taken by no file", file=lock, do=do))


def _is_at(descriptor: int, lock: Path) -> bool:
    """Return True if the name still refers to the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(lock, follow_symlinks=False))
    except FileNotFoundError:
        return False
