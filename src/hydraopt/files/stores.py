"""Stores of objects behind one small interface, with retries after temporary failures.

HTTP is read by hydraopt.files.web, which checks each answer; everything else goes through fsspec,
in hydraopt.files.objects. Both load when an address is first used.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

from hydraopt.files.answers import Check, Entry, Mark, PassingError, Start, check_room, refuse
from hydraopt.files.url import Url

__all__ = ["WAITS", "Store", "copy_to", "patiently", "store_of"]

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
