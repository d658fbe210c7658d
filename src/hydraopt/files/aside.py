"""Bytes put aside: in memory while they are few, in a temporary file when they are many."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Sequence
from typing import Final, NamedTuple, overload

__all__ = ["Aside", "Chosen", "Laid", "Place"]

_MOST: Final = 8 << 20
"""Bytes that stay in memory."""


class Place(NamedTuple):
    """Where bytes lie, and how many they are."""

    start: int
    size: int


class Aside:
    """A temporary file of one process; it goes with the object. Not thread-safe.

    folder: where the file is made; default the system's temporary folder. Every method raises
    OSError where the disk is full.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        place = None if folder is None else os.fspath(folder)
        self._file = tempfile.SpooledTemporaryFile(_MOST, dir=place)  # noqa: SIM115  # as below
        weakref.finalize(self, self._file.close)
        self._end = 0

    def put(self, data: bytes) -> Place:
        """Put bytes behind all others."""
        place = Place(self._end, len(data))
        self._end += len(data)
        self.write(place, data)
        return place

    def write(self, place: Place, data: bytes) -> None:
        """Put as many bytes in the place of others."""
        self._file.seek(place.start)
        self._file.write(data)

    def read(self, place: Place) -> bytes:
        """The bytes that lie there."""
        self._file.seek(place.start)
        return self._file.read(place.size)


class Laid(Sequence[bytes]):
    """Byte strings that lie in a file, each read when it is asked for, and never kept."""

    def __init__(self, aside: Aside, places: Sequence[Place]) -> None:
        self._aside, self._places = aside, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self._aside.read(place) for place in self._places[index]]
        return self._aside.read(self._places[index])


class Chosen(Sequence[bytes]):
    """Byte strings out of others, in another order; each is read when it is asked for."""

    def __init__(self, *some: tuple[Sequence[bytes], Sequence[int]]) -> None:
        """some: byte strings, and the numbers of those that follow one another here."""
        self._chosen = [(source, number) for source, numbers in some for number in numbers]

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [source[number] for source, number in self._chosen[index]]
        source, number = self._chosen[index]
        return source[number]
