"""A core with task files: a change writes or removes task files, and the core is not touched.

What it costs does not depend on how many tasks there are, but for the listing of the folder. Each
task is written in one step; of several, those before a crash are there.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from hydraopt.adapters.basefiles import BaseTensors
from hydraopt.bundle.apart import core_id, open_apart, packed_task
from hydraopt.bundle.beside import (
    folded,
    is_task_name,
    of_tasks,
    parts_beside,
    task_file_name,
)
from hydraopt.bundle.container import CORE, FORMAT, TASK, TASK_SUFFIX
from hydraopt.bundle.opening import Container
from hydraopt.bundle.reader import Bundle, open_bundle
from hydraopt.bundle.taskname import task_name_in
from hydraopt.collection.lock import locked
from hydraopt.collection.piece import Change, TaskPiece, held_in, packed_parts
from hydraopt.errors import BundleFormatError, RemoteError, explain
from hydraopt.files.answers import Entry
from hydraopt.files.folders import files_in, is_folder, is_there, remove_file
from hydraopt.files.ranges import held_at
from hydraopt.files.reading import MOST_CONFIG, read_regular
from hydraopt.files.url import AnyPath
from hydraopt.files.writing import clean, sync_folder, write_atomically

__all__ = ["FolderCollection", "folder_of"]

_JOURNAL: Final = ".renaming.json"
"""What a rename is about to do, so that the next change can finish it."""


class FolderCollection:
    """A folder with one core file, or the core file of several; on this machine or in a store.

    path: the folder, or that file.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path
        core, _ = parts_beside(path, ())
        self._core_path = core
        self._folder = core.parent

    @contextmanager
    def held(self) -> Iterator[None]:
        with locked(self._core_path):
            if isinstance(self._folder, Path):
                clean(self._folder)
            self._finish_renaming()
            yield

    def bundle(self) -> Bundle:
        return open_bundle(self.path)

    def core(self, base: BaseTensors | None = None) -> Bundle:
        return Bundle(self.path, base, open_apart(self._core, [], self.path))

    def size(self) -> int:
        """Bytes of the core and of all task files in the folder."""
        return self._core.size + sum(x.size or 0 for x in self._task_files)

    def has(self, name: str) -> bool:
        return self._file_of(name) is not None

    def names(self) -> set[str]:
        return set(self.bundle())

    def taken(self, names: Iterable[str]) -> set[str]:
        """Every task file of a folder here is asked for its name: it may have another one than its
        file. In a store only those are that may hold the names, for each costs a request."""
        wanted = set(names)
        if not isinstance(self._folder, Path):
            return {name for name in wanted if self._file_of(name) is not None}
        there = (task_name_in(self._folder / x, self._core_id) for x in self._task_names)
        return {name for name in there if name is not None and name in wanted}

    @property
    def _task_files(self) -> list[Entry]:
        files = files_in(self._folder)
        if files is None:
            raise RemoteError(explain("over HTTP this folder lists no files", file=self.path))
        return [x for x in files if is_task_name(x.name)]

    @property
    def _task_names(self) -> list[str]:
        return sorted(x.name for x in self._task_files)

    def write(self, change: Change) -> int:
        """Make a change. Tasks that come in the place of others are written over these."""
        come = {piece.entry.name: piece for piece in change.come}
        for old, new in change.renamed.items():
            self._rename(old, new)
        taken = {folded(stem) for stem in self._stems}
        for name, piece in come.items():
            file = self._file_of(name) if name in change.gone else None
            target = file or self._folder / task_file_name(name, taken)
            self._write(target, piece)
        for name in change.gone:
            if name not in come:
                file = self._file_of(name)
                assert file is not None
                remove_file(file)
        if isinstance(self._folder, Path):
            sync_folder(self._folder)
        return self.size()

    @cached_property
    def _core(self) -> Container:
        return Container(self._core_path, (CORE,))

    @cached_property
    def _core_id(self) -> str:
        return core_id(self._core.metadata["checksums"])

    @cached_property
    def _core_config(self) -> Mapping[str, Any]:
        """The config that those of the tasks are stored as differences from."""
        value = self._core.manifest()
        configs = value.get("configs") if isinstance(value, dict) else None
        first: Mapping[str, Any] = configs[0] if configs else {}
        return first

    @property
    def _stems(self) -> set[str]:
        return {x.name.removesuffix(TASK_SUFFIX) for x in self._task_files}

    def _file_of(self, name: str) -> AnyPath | None:
        """The file that holds the task. Those are opened first that are called like it; the others
        of a folder here may be, too, if somebody has renamed a file."""
        for file in of_tasks(self._task_names, [name]):
            if name in self._opened(self._folder / file):
                return self._folder / file
        if not isinstance(self._folder, Path):
            return None
        for file in self._task_names:
            # A file that cannot be read is no reason not to find the task in another one.
            with suppress(BundleFormatError):
                path = self._folder / file
                if task_name_in(path, self._core_id) == name and name in self._opened(path):
                    return path
        return None

    def _opened(self, file: AnyPath) -> Bundle:
        """The bundle of one task file; of no task if it belongs to another core."""
        return Bundle(file, None, open_apart(self._core, [file], self.path, strict=False))

    def _write(self, target: AnyPath, piece: TaskPiece) -> None:
        core = self.core().manifest
        manifest, streams, blobs = packed_parts(core, [piece])
        # The core's config first: that of the task is stored as the difference.
        manifest = dataclasses.replace(
            manifest,
            configs=(self._core_config, piece.config),
            tasks=(dataclasses.replace(manifest.tasks[0], config=1),),
        )
        stream = streams[0] if streams else None
        packed_task(manifest, 0, stream, blobs, self._core_id).write(target)

    def _rename(self, old: str, new: str) -> None:
        """Two steps, of which the first one counts: the file gets the new row, then its name.

        A store gives no object another name. There the task comes under its new name, and then goes
        under the old one; in between it is there twice.
        """
        file = self._file_of(old)
        assert file is not None
        taken = {folded(stem) for stem in self._stems - {file.name.removesuffix(TASK_SUFFIX)}}
        target = self._folder / task_file_name(new, taken)
        told = json.dumps({"old": old, "task": new, "from": file.name, "to": target.name})
        write_atomically(self._folder / _JOURNAL, [told.encode()])
        first = file if isinstance(file, Path) else target
        self._write(first, held_in(self._opened(file), old).renamed(new))
        self._finish_renaming()

    def _finish_renaming(self) -> None:
        """What a rename had still to do when it was killed; nothing if it had not begun."""
        journal = self._folder / _JOURNAL
        try:
            told = json.loads(_content(journal))
            names = [Path(told[key]).name for key in ("from", "to")]
            task, old = str(told["task"]), str(told.get("old", ""))
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
        """The second step of a rename. Raises BundleFormatError for a file that cannot be read."""
        if isinstance(file, Path) and isinstance(target, Path):
            if file.is_file() and not target.exists() and task in self._opened(file):
                os.rename(file, target)
        elif file != target and self._holds(target, task) and self._holds(file, old):
            remove_file(file)

    def _holds(self, file: AnyPath, task: str) -> bool:
        return is_there(file) and task in self._opened(file)


def _content(file: AnyPath) -> bytes:
    """Of a small file. Raises FileNotFoundError, OSError."""
    if isinstance(file, Path):
        return read_regular(file, MOST_CONFIG)
    held = held_at(file)
    return held.read(0, min(held.size, MOST_CONFIG))


def folder_of(path: AnyPath) -> AnyPath | None:
    """The folder of a collection of several files, by itself or by its core file; None if what is
    there is one file. Raises BundleFormatError for what is no bundle."""
    if is_folder(path):
        return path
    return path.parent if Container(path, (FORMAT, CORE, TASK)).format == CORE else None
