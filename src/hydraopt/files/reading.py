"""Open a user's file, which must be regular and no larger than its kind ever is.

A FIFO would wait for ever for its other end, a device has no end at all, and reading a folder
differs between systems. All are refused with an OSError, which callers turn into an error of their
own kind.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import weakref
from pathlib import Path
from typing import BinaryIO, Final, Protocol

StrPath = str | os.PathLike[str]
"""Path of a file or folder on this machine."""

MOST_CONFIG: Final = 16 << 20
"""Maximum bytes of a config."""

AT_ONCE: Final = 1 << 30
"""Maximum bytes of one read that every system supports."""

_KINDS: Final = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFSOCK: "a socket",
}


def _refused(code: int, what: str, path: str | os.PathLike[str]) -> OSError:
    return OSError(code, what, os.fspath(path))


def _opened(path: str | os.PathLike[str], most: int | None = None) -> tuple[int, os.stat_result]:
    """Open a regular file of at most ``most`` bytes; return its descriptor and status.

    Raises OSError.
    """
    # Without O_NONBLOCK opening a FIFO waits for who writes into it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
            raise _refused(errno.EINVAL, f"not a regular file, but {kind}", path)
        if most is not None and status.st_size > most:
            what = f"too large to be read: {status.st_size:,} bytes, at most {most:,}"
            raise _refused(errno.EFBIG, what, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, status


def open_regular(path: str | os.PathLike[str], most: int | None = None) -> BinaryIO:
    """Open a regular file for reading bytes.

    most: maximum size in bytes. Raises OSError for anything else, without waiting.
    """
    return os.fdopen(_opened(path, most)[0], "rb")


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """Return the content of a regular file of at most ``most`` bytes; raises OSError."""
    with open_regular(path, most) as stream:
        # A read allocates what it may return, so it asks for one byte more than there is.
        data = stream.read(min(most, os.fstat(stream.fileno()).st_size) + 1)
    if len(data) > most:  # It grew meanwhile.
        raise _refused(errno.EFBIG, f"too large to be read: over {most:,} bytes", path)
    return data


class Ranges(Protocol):
    """File, or object in a store, with reads of any byte range."""

    @property
    def size(self) -> int:
        """Size in bytes."""
        ...

    def read(self, start: int, size: int) -> bytes:
        """Read ``size`` bytes from ``start`` on, fewer only at the end."""
        ...

    def is_current(self) -> bool:
        """Return True if the same content is still there under its name, unchanged."""
        ...


class HeldFile:
    """Regular file that stays open, so that it does not change when its name is replaced.

    Safe to read from several threads, and in forks. Closed when nothing refers to it any more.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._descriptor, status = _opened(path)
        self._was = _mark_of(status)
        # Not __del__: at the end of the process it runs after this module has lost its globals.
        closing = weakref.finalize(self, os.close, self._descriptor)
        closing.atexit = False  # The system closes it, after its last reader.

    @property
    def stamp(self) -> tuple[int, int]:
        """Size and time of change when the file was opened."""
        return self._was[2:]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._descriptor).st_size

    def is_current(self) -> bool:
        """Return True if the name still refers to this file and nobody has written into it."""
        try:
            return _mark_of(os.stat(self.path)) == self._was
        except OSError:
            return False

    def read(self, start: int, size: int) -> bytes:
        """Read ``size`` bytes from ``start`` on, fewer only at the end of the file."""
        pieces = []
        while size > 0:
            piece = os.pread(self._descriptor, min(size, AT_ONCE), start)
            if not piece:
                break
            pieces.append(piece)
            start, size = start + len(piece), size - len(piece)
        return b"".join(pieces)


def _mark_of(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def file_hash(path: Path) -> str:
    """Return the sha256 of a file, in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
