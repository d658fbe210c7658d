"""Collection as a core with task files: a change writes or removes task files, never the core.

The cost of a change does not depend on the number of tasks, except for the folder's listing and its
index. The index is written last. Until then it is wrong about the changed files, and readers detect
that.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from hydraopt.adapters.basefiles import BaseTensors
from hydraopt.bundle.container import CORE, CORE_SUFFIX, FORMAT, INDEX_NAME, TASK, TASK_SUFFIX
from hydraopt.bundle.contents import Container
from hydraopt.bundle.reader import Bundle
from hydraopt.bundle.row import TaskRow, row_of_task
from hydraopt.bundle.writer import PackedBundle
from hydraopt.collection.apart import CoreFile, core_of, open_apart, packed_task
from hydraopt.collection.beside import (
    entries_beside,
    folded,
    is_task_name,
    refuse_unlisted,
    task_file_name,
)
from hydraopt.collection.index import IndexedFile, md5_of, renewed_index
from hydraopt.collection.opening import open_bundle
from hydraopt.collection.piece import (
    Change,
    Done,
    TaskPiece,
    check_current,
    held_in,
    packed_parts,
)
from hydraopt.collection.taskfiles import TaskFiles, task_files
from hydraopt.errors import BundleFormatError, explain
from hydraopt.files.folders import entry_of, is_folder, is_there, remove_file
from hydraopt.files.lock import locked_folder
from hydraopt.files.ranges import held_at
from hydraopt.files.reading import MOST_CONFIG, read_regular
from hydraopt.files.replacing import is_unfinished, sync_folder
from hydraopt.files.url import AnyPath
from hydraopt.files.writing import clean, write_atomically

__all__ = ["FolderCollection", "folder_of"]

_JOURNAL: Final = ".renaming.json"
"""Name of the journal of a rename, which lets the next change finish it."""


class FolderCollection:
    """A folder with one core file, or the core file of several; on this machine or in a store.

    path: the folder, or that file.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path
        place, self._entries = entries_beside(path)
        if place is None:
            refuse_unlisted(path)
        self._core_path = place
        self._folder = place.parent

    @contextmanager
    def locked(self) -> Iterator[None]:
        with locked_folder(self._folder):
            if isinstance(self._folder, Path):
                clean(self._folder)
            self._finish_renaming()
            # As it is now that nobody else writes.
            self._entries = entries_beside(self.path)[1]
            self.__dict__.pop("_files", None)
            yield

    def bundle(self) -> Bundle:
        return open_bundle(self.path)

    def core(self, base: BaseTensors | None = None) -> Bundle:
        return Bundle(self.path, base, open_apart(self._core, [], self.path))

    def size(self) -> int:
        """Return the bytes of the core and of all task files; the index does not count."""
        files = self._files.files.values()
        others = {*self._files.broken, *self._files.foreign}
        sizes = [x.size or 0 for x in self._entries or () if x.name in others]
        return self._core.file.size + sum(x.size for x in files) + sum(sizes)

    def has(self, name: str) -> bool:
        return self._files.of(name) is not None

    def names(self) -> set[str]:
        self._check_read()
        return {x.task for x in self._files.files.values()}

    def _check_read(self) -> None:
        for error in self._files.broken.values():
            raise error

    @cached_property
    def _files(self) -> TaskFiles:
        if self._entries is None:
            refuse_unlisted(self.path)
        return task_files(self._folder, self._entries, self._core)

    def write(self, change: Change) -> Done:
        """Make a change; a task that replaces another is written over its file.

        The change counts as made even if the index cannot be written.
        """
        check_current(self._core.file, self.path)
        for name in {*change.gone, *change.renamed}:
            self._check_holds(name)
        come = {piece.entry.name: piece for piece in change.come}
        for old, new in change.renamed.items():
            self._rename(old, new)
        taken = {folded(stem) for stem in self._stems}
        for name, piece in come.items():
            known = self._files.of(name) if name in change.gone else None
            target = known.file if known else task_file_name(name, taken)
            self._write(self._folder / target, piece)
            if known:
                self._remove(name, but=target)
        for name in change.gone:
            if name not in come:
                self._remove(name)
        warning = None
        if self._has_index:
            core = self._core_path.name, self._core.id
            warning = renewed_index(self._folder, core, self._files.files.values())
        if isinstance(self._folder, Path):
            sync_folder(self._folder)
        return Done(self.size(), (warning,) if warning else ())

    @property
    def _has_index(self) -> bool:
        """True if the folder has one core file, so that the index is this collection's alone."""
        return sum(x.name.endswith(CORE_SUFFIX) for x in self._entries or ()) == 1

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

    @cached_property
    def _core(self) -> CoreFile:
        return core_of(Container(self._core_path, (CORE,)))

    @cached_property
    def _core_config(self) -> Mapping[str, Any]:
        """Config from which the configs of the tasks are stored as differences."""
        configs = self._core.manifest.configs
        return configs[0] if configs else {}

    @property
    def _stems(self) -> set[str]:
        files = (*self._files.files, *self._files.broken, *self._files.foreign)
        return {x.removesuffix(TASK_SUFFIX) for x in files}

    def _opened(self, file: AnyPath) -> Bundle:
        """Open the bundle of one task file; it has no task if the file belongs to another core."""
        return Bundle(file, None, open_apart(self._core, [file], self.path, strict=False))

    def _packed(self, piece: TaskPiece) -> tuple[PackedBundle, TaskRow]:
        """Return the file of a task, and its row."""
        manifest, streams, blobs = packed_parts(self._core.manifest, [piece])
        # The core's config first: that of the task is stored as the difference.
        manifest = dataclasses.replace(
            manifest,
            configs=(self._core_config, piece.config),
            tasks=(dataclasses.replace(manifest.tasks[0], config=1),),
        )
        stream = streams[0] if streams else None
        packed = packed_task(manifest, 0, stream, blobs, self._core.id)
        row = row_of_task(manifest.tasks[0], piece.config, len(stream or b""), sum(map(len, blobs)))
        return packed, row

    def _write(self, target: AnyPath, piece: TaskPiece) -> None:
        packed, row = self._packed(piece)
        packed.write(target)
        md5 = md5_of(packed.pieces())
        self._note(IndexedFile(target.name, packed.size, row.name, row, md5=md5))

    def _note(self, file: IndexedFile) -> None:
        """Record the current mark of a file that was written."""
        now = entry_of(self._folder / file.file)
        self._files.files[file.file] = dataclasses.replace(file, mark=now.mark)

    def _rename(self, old: str, new: str) -> None:
        """Rename a task in two steps: give the file the new row, which decides, then the new name.

        A store cannot rename an object. There the task is written under its new name and then
        removed under the old one; in between both exist.
        """
        known = self._files.of(old)
        assert known is not None
        file = self._folder / known.file
        taken = {folded(stem) for stem in self._stems - {known.file.removesuffix(TASK_SUFFIX)}}
        target = self._folder / task_file_name(new, taken)
        entry = json.dumps({"old": old, "task": new, "from": file.name, "to": target.name})
        write_atomically(self._folder / _JOURNAL, [entry.encode()])
        first = file if isinstance(file, Path) else target
        self._write(first, held_in(self._opened(file), old).renamed(new))
        self._finish_renaming()
        written = self._files.files[first.name]
        for gone in {file.name, first.name}:
            del self._files.files[gone]
        self._note(dataclasses.replace(written, file=target.name))

    def _finish_renaming(self) -> None:
        """Finish a rename that was killed; do nothing if it had not begun.

        A journal may be old or forged, so no task is removed because of it alone. A file gets
        another name, or is removed if its task exists under the new name with the same bytes.
        """
        journal = self._folder / _JOURNAL
        if isinstance(journal, Path) and journal.is_symlink():
            remove_file(journal)
            return
        try:
            entry = json.loads(_content(journal))
            names = [Path(entry[key]).name for key in ("from", "to")]
            task, old = str(entry["task"]), str(entry.get("old", ""))
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError, RecursionError):
            names, task, old = [], "", ""  # Nobody can finish what it says.
        if names and all(map(is_task_name, names)):
            file, target = (self._folder / name for name in names)
            with suppress(BundleFormatError):
                self._finish(file, target, old, task)
        with suppress(OSError):
            remove_file(journal)

    def _finish(self, file: AnyPath, target: AnyPath, old: str, task: str) -> None:
        """Do a rename's second step. Raises BundleFormatError for a file that cannot be read."""
        if isinstance(file, Path) and isinstance(target, Path):
            if file.is_file() and not target.exists() and task in self._opened(file):
                os.rename(file, target)
        elif file != target and is_there(target) and is_there(file):
            before, after = self._opened(file), self._opened(target)
            if old in before and task in after:
                renamed, there = held_in(before, old).renamed(task), held_in(after, task)
                if self._packed(renamed)[0].checksums == self._packed(there)[0].checksums:
                    remove_file(file)


def _content(file: AnyPath) -> bytes:
    """Return the content of a small file. Raises FileNotFoundError, OSError."""
    if isinstance(file, Path):
        return read_regular(file, MOST_CONFIG)
    held = held_at(file)
    return held.read(0, min(held.size, MOST_CONFIG))


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
