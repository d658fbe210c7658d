"""Collection as a core with task files: a change writes or removes task files, never the core.

The cost of a change does not depend on the number of tasks, except for the folder's listing and its
index. The index is written last. Until then it is wrong about the changed files, and readers detect
that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydraopt.adapters.basefiles import BaseTensors
from hydraopt.bundle.container import CORE, FORMAT, INDEX_NAME, TASK
from hydraopt.bundle.contents import Container
from hydraopt.bundle.reader import Bundle
from hydraopt.collection.apart import CoreFile, open_apart, packed_task
from hydraopt.collection.beside import (
    refuse_unlisted,
    stem_of,
    task_file_name,
)
from hydraopt.collection.index import indexed_now, renewed_index
from hydraopt.collection.indexed import Folder, TaskFiles
from hydraopt.collection.opening import open_bundle
from hydraopt.collection.piece import (
    TaskPiece,
    check_current,
    held_in,
)
from hydraopt.errors import BundleFormatError, explain
from hydraopt.files.folders import is_folder, remove_file
from hydraopt.files.lock import locked_folder
from hydraopt.files.replacing import is_unfinished, sync_folder
from hydraopt.files.url import AnyPath
from hydraopt.files.writing import clean
from hydraopt.notes import Note

__all__ = ["FolderCollection", "folder_of"]


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

        Returns and takes what :meth:`hydraopt.collection.storage.OneFile.write` does. The change
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
