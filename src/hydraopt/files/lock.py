"""One writer at a time: a lock beside what is written, refused at once if somebody holds it.

The lock is the system's, on a file ".NAME.lock"; so it goes with its holder, however that ends, and
a file that is left over holds nobody up. The file says who holds it, for the message alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked.
    fcntl = None  # type: ignore[assignment]

from hydraopt.errors import LockedError, explain
from hydraopt.files.url import Url, is_url

__all__ = ["locked"]


@contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold the lock of a file or folder; links are followed. Of an address it lies in the store.

    Raises LockedError, naming the process, if another one holds it, and OSError if the lock file
    cannot be made.
    """
    if is_url(path):
        from hydraopt.files.remotelock import locked_in_store

        with locked_in_store(Url(os.fspath(path))):
            yield
        return
    if fcntl is None:
        yield
        return
    target = Path(os.path.realpath(path))
    lock = target.with_name(f".{target.name}.lock")
    descriptor = _taken(lock, path)
    try:
        yield
    finally:
        # Before the lock goes: a file that is unlinked later might be somebody else's by then.
        with suppress(OSError):
            lock.unlink()
        os.close(descriptor)


def _taken(lock: Path, path: str | os.PathLike[str]) -> int:
    """A descriptor that holds the lock on the file of that name."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    while True:
        descriptor = os.open(lock, flags, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, lock):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                return descriptor
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


def _is_at(descriptor: int, lock: Path) -> bool:
    """Whether the name still stands for the file that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(lock, follow_symlinks=False))
    except FileNotFoundError:
        return False
