"""Stores of objects behind one small interface: byte ranges, listings, retries.

HTTP is read by hydraopt.files.web, which checks each answer; everything else goes through fsspec,
in hydraopt.files.objects. Both load when an address is first used.

Its length and tag are those of the first answer, and any later one that differs is an error.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

from hydraopt.errors import NotThereError, UsageError, explain
from hydraopt.files.addresses import (
    AnyPath,
    Check,
    Entry,
    Mark,
    PassingError,
    Start,
    Url,
    check_room,
    refuse,
)
from hydraopt.files.reading import HeldFile, Ranges

T = TypeVar("T")

WAITS: Final = [0.2, 0.5, 1.0, 2.0, 4.0]
"""Seconds to wait before each retry, less a random part of up to half. Tests shorten them."""
CHUNK: Final = 16 << 20


class Store(Protocol):
    """Interface of a store. Raises RemoteError; NotThereError if nothing is there; PassingError."""

    def start(self, url: Url, ahead: int, check: Check | None = None) -> Start:
        """Open an object and read up to ``ahead`` of its first bytes.

        check: asked on the way where the whole object is read, since the server has no ranges.
        """
        ...

    def read(self, url: Url, start: int, size: int, mark: Mark) -> bytes:
        """Return exactly ``size`` bytes of the object with that mark, which must have them all."""
        ...

    def mark(self, url: Url) -> Mark:
        """Return the mark of the object that is there now; no byte of it is read."""
        ...

    def entries(self, url: Url) -> list[Entry] | None:
        """Return the entries of a folder, unsorted; [] for none, None if they are unknown."""
        ...

    def matches(self, url: Url) -> list[Url]:
        """Return the addresses that fit a pattern with ``*``, ``?`` and ``[]``."""
        ...

    def put(self, url: Url, data: bytes) -> None:
        """Write an object, whole or not at all."""
        ...

    def create(self, url: Url, data: bytes) -> bool:
        """Write an object if nothing is there; whether it was written."""
        ...

    def remove(self, url: Url) -> None:
        """Delete an object, if it is there."""
        ...


def store_of(url: Url) -> Store:
    """Return the store of an address. Raises RemoteError if its library is missing."""
    if url.is_web:
        from hydraopt.files.web import WebStore

        return WebStore()
    from hydraopt.files.objects import ObjectStore

    return ObjectStore()


def patiently(act: Callable[[], T], url: Url) -> T:
    """Return the result of ``act``, with retries after PassingError; at last raise RemoteError."""
    for wait in WAITS:
        try:
            return act()
        except PassingError as error:
            import random

            time.sleep(max(wait * (0.5 + random.random() / 2), error.wait))
    try:
        return act()
    except PassingError as error:
        tries = len(WAITS) + 1
        refuse(f"store failed {tries} times", url, error, do=LATER)


LATER: Final = "Check the address and the network, and try again later"


def copy_to(url: Url, target: Path, check: Check | None = None) -> int:
    """Write an object to a local file and return its number of bytes.

    Raises RemoteError if the object was replaced meanwhile, because pieces of two objects make a
    file that nobody wrote, and if the disk has no room; and what ``check`` raises.
    """
    store = store_of(url)
    started = patiently(lambda: store.start(url, CHUNK, check), url)
    if started.whole is not None:
        _move(url, started.whole, target)
        return started.mark.size
    size, head = started.mark.size, bytearray(started.head)
    check_room(url, size, target.parent)
    position = len(head)
    with target.open("wb") as file:
        file.write(head)
        while True:
            if check is not None and check(head, size):
                check = None
            if position >= size:
                break
            count = min(CHUNK, size - position)
            data = patiently(partial(store.read, url, position, count, started.mark), url)
            file.write(data)
            position += count
            if check is not None:
                head += data
    if position > len(started.head):
        now = patiently(lambda: store.mark(url), url)
        if now != started.mark:
            got, expected = (f"{x.size} bytes, {x.tag or 'no tag'}" for x in (now, started.mark))
            refuse("object changed while it was read", url, got, expected, "Run again")
    return position


def _move(url: Url, copy: Path, target: Path) -> None:
    """Move a temporary copy of an object to its place, or delete it.

    Raises RemoteError for a disk without room, and OSError.
    """
    import shutil

    try:
        if copy.stat().st_dev != target.parent.stat().st_dev:
            check_room(url, copy.stat().st_size, target.parent)
        shutil.move(copy, target)
    finally:
        copy.unlink(missing_ok=True)


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


ALL_FILES: Final = "tasks"
"""Name for the lock of all files in a folder; several cores in one folder share this lock."""


def lock_name(name: str) -> str:
    """Return the name of the lock beside a file or folder, see hydraopt.files.locks."""
    return f".{name}.lock"


def is_folder(place: AnyPath) -> bool:
    """Return True if the place is a folder.

    A path is one if the folder exists. An address is one if it ends in a slash or is not an object;
    over HTTP only the slash counts.
    """
    if isinstance(place, Path):
        return place.is_dir()
    if place.is_folder or not place.name:
        return True
    return not place.is_web and not is_there(place)


def is_there(place: AnyPath) -> bool:
    """Return True if a file or object of that name exists.

    Raises RemoteError if that cannot be determined.
    """
    if isinstance(place, Path):
        return place.is_file()
    try:
        patiently(lambda: store_of(place).mark(place), place)
    except NotThereError:
        return False
    return True


def files_in(folder: AnyPath) -> list[Entry] | None:
    """Return the files and folders in it, by name; None for a folder over HTTP that lists nothing.

    Files that vanish during the listing are left out; a link to nothing has neither size nor mark.
    Raises OSError.
    """
    if isinstance(folder, Url):
        url = folder
        entries = patiently(lambda: store_of(url).entries(url), url)
        return None if entries is None else sorted(entries, key=lambda x: x.name)
    with os.scandir(folder) as inside:
        entries = [x for at in inside if (x := _listed(at)) is not None]
    return sorted(entries, key=lambda x: x.name)


def check_empty(folder: AnyPath, do: str) -> None:
    """Raise UsageError for a folder that holds anything but the lock of an ended writer.

    do: what to do instead of writing there. A folder over HTTP that lists nothing has not answered
    and counts as not empty. Raises OSError.
    """
    inside = files_in(folder)
    if inside is None or any(x.name != lock_name(ALL_FILES) for x in inside):
        raise UsageError(explain("the folder is not empty", file=folder, do=do))


def _listed(at: os.DirEntry[str]) -> Entry | None:
    """Return the entry of an item in a local folder; None if it is gone.

    Locks and unfinished files come and go while others read.
    """
    if at.is_dir():
        return Entry(at.name, True)
    try:
        return _entry(at.name, at.stat())
    except FileNotFoundError:
        return Entry(at.name, False) if at.is_symlink() else None


def entry_of(place: AnyPath) -> Entry:
    """Return the entry of one file, as a listing would state it. Raises OSError, RemoteError."""
    if isinstance(place, Path):
        return _entry(place.name, place.stat())
    mark = patiently(lambda: store_of(place).mark(place), place)
    return Entry(place.name, False, mark.size, mark.tag)


def _entry(name: str, status: os.stat_result) -> Entry:
    return Entry(name, False, status.st_size, str(status.st_mtime_ns))


def remove_file(place: AnyPath) -> None:
    """Delete a file; an object that is gone already counts as deleted. Raises OSError."""
    if isinstance(place, Path):
        place.unlink()
    else:
        patiently(lambda: store_of(place).remove(place), place)
