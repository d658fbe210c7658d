"""Lock for one writer at a time, beside the file to write or as an object in a store.

The lock is the system's, on a file ".NAME.lock", so it ends with its holder in every case, and a
leftover file blocks nobody. The file names the holder, for the message alone.

Stores that create objects so in one step protect a collection from two writers (S3 and compatible
stores, Google's, memory). Unlike a lock of the system it does not end with its holder: after a
crash it stays, names its creator, and is deleted by hand.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from hydraopt.errors import LockedError, NotThereError, RemoteError, UsageError, explain
from hydraopt.files.addresses import AnyPath, Url, place_of
from hydraopt.files.outputs import destination
from hydraopt.files.stores import ALL_FILES, RemoteFile, is_there, lock_name, patiently, store_of
from hydraopt.files.writing import finish_replacing

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked.
    fcntl = None  # type: ignore[assignment]


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

    Unfinished work of a killed writer is done first, see :mod:`hydraopt.files.writing`.
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


_MOST = 4096


@contextmanager
def locked_in_store(url: Url, path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold the lock of an object.

    path: name of the object in errors.

    Raises LockedError, which names the holder; RemoteError.
    """
    lock = url.with_name(lock_name(url.name))
    mine = {
        "host": platform.node(),
        "process": os.getpid(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "token": secrets.token_hex(16),
    }
    data = json.dumps(mine).encode()
    if url.is_web:  # which refuses every write: by the name that was given, not that of the lock
        store_of(url).create(path if isinstance(path, Url) else Url(os.fspath(path)), b"")
    created = patiently(lambda: store_of(lock).create(lock, data), lock)
    if not created and _holder(lock).get("token") != mine["token"]:
        # Of the same token: it was made, and the answer that said so was lost.
        _refuse(path, lock)
    try:
        yield
    finally:
        # What was written counts; whoever finds the lock is told how to go on.
        with suppress(RemoteError):
            patiently(lambda: store_of(lock).remove(lock), lock)


def _holder(lock: Url) -> dict[str, Any]:
    try:
        file = RemoteFile(lock)
        value = json.loads(file.read(0, min(file.size, _MOST)))
    except (NotThereError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _refuse(path: str | os.PathLike[str], lock: Url) -> None:
    holder = _holder(lock)
    known = {"host", "process", "since"} <= holder.keys()
    who = f"{holder['process']} on {holder['host']} since {holder['since']}" if known else None
    raise LockedError(
        explain(
            "another process is changing the collection",
            file=path,
            got=f"a lock of process {who}" if who else "a lock",
            do=f"Wait until it is done, and try again; if it no longer runs, delete {lock}",
        )
    )
