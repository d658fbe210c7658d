"""Kinds of collections: the data that a change reads, and writing it in one step."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Collection as Names
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydraopt.adapters.basefiles import BaseTensors
from hydraopt.bundle.reader import Bundle
from hydraopt.bundle.writer import pack_bundle
from hydraopt.collection.folder import FolderCollection, folder_of
from hydraopt.collection.opening import open_bundle
from hydraopt.collection.piece import (
    TaskPiece,
    check_current,
    held_in,
    packed_parts,
)
from hydraopt.files.lock import locked
from hydraopt.files.outputs import destination
from hydraopt.files.url import AnyPath, place_of
from hydraopt.notes import Note

__all__ = ["Collection", "StrPath", "collection_at"]

StrPath = str | os.PathLike[str]


class OneFile:
    """A bundle: every change writes the file anew, and takes over all bytes that stay."""

    def __init__(self, path: AnyPath) -> None:
        self.path = path
        self._open: Bundle | None = None

    @contextmanager
    def locked(self) -> Iterator[None]:
        open_bundle(self.path)  # A name that stands for no bundle gets no lock beside it.
        with locked(self.path):
            self._open = None
            yield

    def bundle(self) -> Bundle:
        if self._open is None:
            self._open = open_bundle(self.path)
        return self._open

    def core(self, base: BaseTensors | None = None) -> Bundle:
        bundle = self.bundle()
        bundle.base = base or bundle.base
        return bundle

    def piece(self, name: str) -> TaskPiece:
        """Return the task of that name, which must be there, not decoded."""
        return held_in(self.bundle(), name)

    def has(self, name: str) -> bool:
        return name in self.bundle()

    def names(self) -> set[str]:
        return set(self.bundle())

    def size(self) -> int:
        return self.bundle().size

    def write(
        self, gone: Names[str] = (), come: Sequence[TaskPiece] = ()
    ) -> tuple[int, tuple[Note, ...]]:
        """Remove and add tasks in one step; return the new size in bytes, and warnings.

        gone: names of tasks to remove.
        come: tasks to add, each by itself; they may use names of removed tasks.
        """
        bundle = self.bundle()
        # Blobs that tasks share are read once, so that memory holds the file at most once.
        read = functools.cache(bundle.read)
        pieces = [held_in(bundle, name, read) for name in bundle if name not in gone]
        core = dataclasses.replace(bundle.manifest, tasks=(), blobs=(), configs=())
        manifest, streams, blobs = packed_parts(core, [*pieces, *come])
        packed = pack_bundle(manifest, bundle.read("shared"), streams, blobs)
        check_current(bundle.files[0], self.path)
        size = packed.write(destination(self.path))
        self._open = None
        return size, ()


Collection = OneFile | FolderCollection


def collection_at(path: StrPath) -> Collection:
    """Return the collection at a path. Raises BundleFormatError if there is none."""
    place = place_of(path)
    if folder_of(place) is None:
        return OneFile(place)
    return FolderCollection(place)
