"""Bytes put aside: in memory while they are few, in a temporary file when they are many."""

from __future__ import annotations

import errno
import io
import os
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final, NamedTuple, overload

MOST: Final = 8 << 20
"""Maximum bytes that stay in memory."""


class Place(NamedTuple):
    """Position and size of a run of bytes."""

    start: int
    size: int


class Aside:
    """Temporary file of one process, deleted with the object. Not thread-safe.

    folder: where the file is made; default the system's temporary folder. Every method raises
    OSError, which names that folder, where the disk is full; what was put before stays readable.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._folder = None if folder is None else os.fspath(folder)
        self._file: io.BytesIO | io.FileIO = io.BytesIO()
        self._end = 0

    def put(self, data: bytes) -> Place:
        """Put bytes behind all others."""
        place = Place(self._end, len(data))
        self.write(place, data)
        self._end += len(data)
        return place

    def write(self, place: Place, data: bytes) -> None:
        """Put as many bytes in the place of others."""
        try:
            if isinstance(self._file, io.BytesIO) and place.start + len(data) > MOST:
                self._file = self._outgrown(self._file)
            _fill(self._file, place.start, data)
        except OSError as error:
            raise self._named(error) from error

    def read(self, place: Place) -> bytes:
        """Return the bytes at that place."""
        try:
            self._file.seek(place.start)
            data = self._file.read(place.size)
            while len(data) < place.size:  # a system gives some 2 GiB at once
                more = self._file.read(place.size - len(data))
                if not more:
                    raise OSError(errno.EIO, "a temporary file is shorter than what was put there")
                data += more
        except OSError as error:
            raise self._named(error) from error
        return data

    def _outgrown(self, held: io.BytesIO) -> io.FileIO:
        """Return an unbuffered file with the contents that were held in memory.

        Without a buffer, a full disk fails the writer, not a later reader of something else.
        """
        import tempfile

        with ExitStack() as closing:
            file = closing.enter_context(tempfile.TemporaryFile(buffering=0, dir=self._folder))
            with held.getbuffer() as data:
                _fill(file, 0, data)
            weakref.finalize(self, closing.pop_all().close)
        return file

    def _named(self, error: OSError) -> OSError:
        """Return the error with the folder's name added."""
        import tempfile

        folder = self._folder or tempfile.gettempdir()
        return OSError(error.errno, error.strerror or str(error), folder)


def _fill(file: io.BytesIO | io.FileIO, start: int, data: bytes | memoryview) -> None:
    """Write all bytes at a place; a disk that gets full takes some, then none."""
    file.seek(start)
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


class _Read(Sequence[bytes]):
    """Byte strings that are read on access; their sizes are known without reading."""

    sizes: Sequence[int]

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self._read(i) for i in range(*index.indices(len(self)))]
        return self._read(range(len(self))[index])

    def _read(self, index: int) -> bytes:
        raise NotImplementedError


class Laid(_Read):
    """Byte strings that lie in a file; none is kept."""

    def __init__(self, aside: Aside, places: Sequence[Place]) -> None:
        self._aside, self._places = aside, places
        self.sizes = [place.size for place in places]

    def _read(self, index: int) -> bytes:
        return self._aside.read(self._places[index])


class Chosen(_Read):
    """Byte strings selected from others, in another order."""

    def __init__(self, *some: tuple[Sequence[bytes], Sequence[int]]) -> None:
        """Concatenate selections of byte strings.

        some: byte strings, and the indices of those that follow one another here.
        """
        self._chosen = [(source, number) for source, numbers in some for number in numbers]
        self.sizes = [
            source.sizes[number] if isinstance(source, _Read) else len(source[number])
            for source, number in self._chosen
        ]

    def _read(self, index: int) -> bytes:
        source, number = self._chosen[index]
        return source[number]


def sizes_of(some: Sequence[bytes]) -> Sequence[int]:
    """Return the size of each; byte strings in a file are not read for it."""
    return some.sizes if isinstance(some, _Read) else [len(data) for data in some]
