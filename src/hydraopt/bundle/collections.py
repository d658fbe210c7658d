"""Change a collection in one step: one file, or a core with task files.

The cost of a change does not depend on the number of tasks, except for the folder's listing and its
index. The index is written last. Until then it is wrong about the changed files, and readers detect
that.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Collection as Names, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydraopt.adapters import BaseTensors
from hydraopt.bundle.contents import Container
from hydraopt.bundle.encoding import CORE, FORMAT, TASK
from hydraopt.bundle.folder import Folder, TaskFiles
from hydraopt.bundle.index import indexed_now, renewed_index
from hydraopt.bundle.names import refuse_unlisted, stem_of, task_file_name
from hydraopt.bundle.opening import open_bundle
from hydraopt.bundle.parts import (
    CoreFile,
    TaskPiece,
    check_current,
    held_in,
    open_apart,
    packed_parts,
    packed_task,
)
from hydraopt.bundle.reader import Bundle
from hydraopt.bundle.writer import pack_bundle
from hydraopt.errors import BundleFormatError, explain
from hydraopt.files import (
    INDEX_NAME,
    AnyPath,
    StrPath,
    clean,
    destination,
    is_folder,
    is_unfinished,
    locked,
    locked_folder,
    place_of,
    remove_file,
    sync_folder,
)
from hydraopt.notes import Note


class FolderCollection:
    """A folder with one core file, or the core file of several; on this machine or in a store.

    path: the folder, or that file.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path
        self._at = Folder(path)
        self._folder = self._at.folder
        if self._at.entries is None:
            refuse_unlisted(path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        with locked_folder(self._folder):
            if isinstance(self._folder, Path):
                clean(self._folder)
            # As it is now that nobody else writes.
            self._at = Folder(self.path, self._at.core)
            yield

    def bundle(self) -> Bundle:
        return open_bundle(self.path)

    def core(self, base: BaseTensors | None = None) -> Bundle:
        return Bundle(self.path, base, open_apart(self._core, [], self.path))

    def size(self) -> int:
        """Return the bytes of the core and of all task files; the index does not count."""
        files = self._files.files.values()
        others = {*self._files.broken, *self._files.foreign}
        sizes = [x.size or 0 for x in self._at.entries or () if x.name in others]
        return self._core.file.size + sum(x.size for x in files) + sum(sizes)

    def has(self, name: str) -> bool:
        return self._files.of(name) is not None

    def piece(self, name: str) -> TaskPiece:
        """Return the task of that name, which must be there, not decoded."""
        self._check_holds(name)
        known = self._files.of(name)
        assert known is not None
        return held_in(self._opened(self._folder / known.file), name)

    def names(self) -> set[str]:
        for error in self._files.broken.values():
            raise error
        return {x.task for x in self._files.files.values()}

    @property
    def _files(self) -> TaskFiles:
        return self._at.known

    @property
    def _core(self) -> CoreFile:
        return self._at.core

    def write(
        self, gone: Collection[str] = (), come: Sequence[TaskPiece] = ()
    ) -> tuple[int, tuple[Note, ...]]:
        """Remove and add tasks; a task that replaces another is written over its file.

        Returns and takes what :meth:`hydraopt.bundle.collections.OneFile.write` does. The change
        counts as made even if the index cannot be written, which is a warning.
        """
        check_current(self._core.file, self.path)
        for name in gone:
            self._check_holds(name)
        new = {piece.entry.name: piece for piece in come}
        taken = {stem_of(name) for name in self._names}
        for name, piece in new.items():
            known = self._files.of(name) if name in gone else None
            target = known.file if known else task_file_name(name, taken)
            self._write(self._folder / target, piece)
            if known:
                self._remove(name, but=target)
        for name in gone:
            if name not in new:
                self._remove(name)
        warning = None
        if len(self._at.cores) == 1:  # The index is this collection's alone.
            core = self._at.place.name, self._core.id
            warning = renewed_index(self._folder, core, self._files.files.values())
        if isinstance(self._folder, Path):
            sync_folder(self._folder)
        return self.size(), (warning,) if warning else ()

    def _check_holds(self, name: str) -> None:
        """Raise BundleFormatError if a file does not hold the task that the index says it holds.

        The other task would be lost.
        """
        for file in self._files_of(name):
            if name not in self._opened(self._folder / file):
                raise BundleFormatError(
                    explain(
                        "the index of the folder is wrong about a task file",
                        file=self._folder / file,
                        expected=f"the task {name!r}",
                        do=f"Delete {INDEX_NAME}, and try again",
                    )
                )

    def _files_of(self, name: str) -> list[str]:
        """Return the files of a task: one, unless somebody has copied it."""
        return [file for file, x in self._files.files.items() if x.task == name]

    def _remove(self, name: str, but: str | None = None) -> None:
        """Remove every file of a task except ``but``."""
        for file in self._files_of(name):
            if file != but:
                del self._files.files[file]
                remove_file(self._folder / file)

    @property
    def _names(self) -> tuple[str, ...]:
        """Names of all task files."""
        return *self._files.files, *self._files.broken, *self._files.foreign

    def _opened(self, file: AnyPath) -> Bundle:
        """Open the bundle of one task file; it has no task if the file belongs to another core."""
        return Bundle(file, None, open_apart(self._core, [file], self.path, strict=False))

    def _write(self, target: AnyPath, piece: TaskPiece) -> None:
        packed = packed_task(self._core.manifest, piece, self._core.id)
        packed.write(target)
        self._files.files[target.name] = indexed_now(target, piece.row, packed)


def folder_of(path: AnyPath) -> AnyPath | None:
    """Return the folder of a collection in several files, given it or its core; None for one file.

    What a writer had still to do in it when it was killed is done first. Raises BundleFormatError
    for what is no bundle, LockedError for a folder whose files are being replaced.
    """
    if isinstance(path, Path):
        folder = path if path.is_dir() else path.parent
        if is_unfinished(folder):
            with locked_folder(folder):
                pass
    if is_folder(path):
        return path
    return path.parent if Container(path, (FORMAT, CORE, TASK)).format == CORE else None


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


BundleStorage = OneFile | FolderCollection


def collection_at(path: StrPath) -> BundleStorage:
    """Return the collection at a path. Raises BundleFormatError if there is none."""
    place = place_of(path)
    if folder_of(place) is None:
        return OneFile(place)
    return FolderCollection(place)
