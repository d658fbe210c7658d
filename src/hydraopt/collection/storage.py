"""Kinds of collections: the data that a change reads, and writing it in one step."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from hydraopt.adapters.basefiles import BaseTensors
from hydraopt.bundle.reader import Bundle
from hydraopt.bundle.writer import pack_bundle
from hydraopt.collection.folder import FolderCollection, folder_of
from hydraopt.collection.opening import open_bundle
from hydraopt.collection.piece import (
    Change,
    Done,
    check_current,
    held_in,
    packed_parts,
)
from hydraopt.files.lock import locked
from hydraopt.files.outputs import destination
from hydraopt.files.url import AnyPath, place_of

__all__ = ["Collection", "StrPath", "collection_at"]

StrPath = str | os.PathLike[str]


class Collection(Protocol):
    """Storage of a collection."""

    path: AnyPath

    def locked(self) -> AbstractContextManager[None]:
        """Return a context in which nobody else writes. Raises LockedError."""
        ...

    def core(self, base: BaseTensors | None = None) -> Bundle:
        """Return the bundle against which tasks are coded, maybe without its tasks."""
        ...

    def has(self, name: str) -> bool:
        """Return True if there is a task of that name."""
        ...

    def names(self) -> set[str]:
        """Return the names of all tasks. Raises BundleFormatError for a damaged file."""
        ...

    def bundle(self) -> Bundle:
        """Return the whole collection as an open bundle."""
        ...

    def size(self) -> int:
        """Return the bytes of the whole collection."""
        ...

    def write(self, change: Change) -> Done:
        """Make a change."""
        ...


def collection_at(path: StrPath) -> Collection:
    """Return the collection at a path. Raises BundleFormatError if there is none."""
    place = place_of(path)
    if folder_of(place) is None:
        return _OneFile(place)
    return FolderCollection(place)


class _OneFile:
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

    def has(self, name: str) -> bool:
        return name in self.bundle()

    def names(self) -> set[str]:
        return set(self.bundle())

    def size(self) -> int:
        return self.bundle().size

    def write(self, change: Change) -> Done:
        bundle = self.bundle()
        # Blobs that tasks share are read once, so that memory holds the file at most once.
        read = functools.cache(bundle.read)
        pieces = [
            held_in(bundle, name, read).renamed(change.renamed.get(name, name))
            for name in bundle
            if name not in change.gone
        ]
        core = dataclasses.replace(bundle.manifest, tasks=(), blobs=(), configs=())
        manifest, streams, blobs = packed_parts(core, [*pieces, *change.come])
        packed = pack_bundle(manifest, bundle.read("shared"), streams, blobs)
        check_current(bundle.files[0], self.path)
        size = packed.write(destination(self.path))
        self._open = None
        return Done(size)
