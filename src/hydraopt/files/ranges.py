"""Open object at an address: bytes from any position, as from an open file.

Its length and tag are those of the first answer, and any later one that differs is an error.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from hydraopt.files.answers import Check, Mark, refuse
from hydraopt.files.reading import HeldFile, Ranges
from hydraopt.files.stores import patiently, store_of
from hydraopt.files.url import AnyPath, Url

__all__ = ["AHEAD", "RemoteFile", "held_at"]

AHEAD: Final = 8 << 10
"""Bytes of the first request: the header of most bundles. All of them are needed anyway."""


class RemoteFile:
    """Object in a store, safe to read from several threads, and in forks.

    check: called on the way where the whole object has to be read.
    fetched: bytes that were read from the store so far.

    Raises RemoteError.
    """

    def __init__(self, path: Url, check: Check | None = None) -> None:
        self.path = path
        started = patiently(lambda: store_of(path).start(path, AHEAD, check), path)
        self._mark, self._head = started.mark, started.head
        self.fetched = len(started.head)
        self._copy: HeldFile | None = None
        if started.whole is not None:
            self._copy = HeldFile(started.whole)
            self.fetched = self._copy.size
            # Without a name it goes with the last who reads it, even if the process is killed.
            with suppress(OSError):
                started.whole.unlink()

    @property
    def size(self) -> int:
        """Bytes of the object."""
        return self._mark.size

    def read(self, start: int, size: int) -> bytes:
        """Read ``size`` bytes from ``start`` on, fewer only at the end of the object."""
        if self._copy is not None:
            return self._copy.read(start, size)
        stop = min(start + size, self.size)
        known = self._head[start:stop]
        start += len(known)
        if start >= stop:
            return known
        url, count = self.path, stop - start
        data = patiently(lambda: store_of(url).read(url, start, count, self._mark), url)
        if len(data) != count:
            refuse("a range came short", url, f"{len(data)} bytes", f"{count} bytes")
        self.fetched += count
        return known + data

    def is_current(self) -> bool:
        """Return True if the same object is still there.

        Without a tag, an object of equal length counts as the same.
        """
        url = self.path
        now: Mark = patiently(lambda: store_of(url).mark(url), url)
        return now == self._mark


def held_at(place: AnyPath, check: Check | None = None) -> Ranges:
    """Open the file or object at the place.

    check: check of an object's first bytes, used for an address only; see RemoteFile.

    Raises OSError; RemoteError for an address.
    """
    return RemoteFile(place, check) if isinstance(place, Url) else HeldFile(place)
