"""A folder of core and tasks, opened by its index: a task file is read when its task is wanted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Final

from hydraopt.bundle import strictjson
from hydraopt.bundle.container import CORE, TASK
from hydraopt.bundle.contents import Container
from hydraopt.bundle.row import TaskRow
from hydraopt.collection.apart import (
    CoreFile,
    Parts,
    another_core,
    core_of,
    open_apart,
    two_of_one_name,
)
from hydraopt.collection.beside import entries_beside, parts_beside, refuse_unlisted
from hydraopt.collection.index import FolderIndex, IndexedFile, read_index
from hydraopt.collection.taskfiles import TaskFiles, task_files
from hydraopt.errors import BundleFormatError, NotThereError, UsageError
from hydraopt.files.folders import is_folder
from hydraopt.files.url import AnyPath

__all__ = ["IndexedFolder", "open_folder", "open_some", "parts_named"]

KEPT: Final = 256
"""Number of task files that stay open after use; each takes some 10 kB of memory."""


class IndexedFolder:
    """Folder opened by its index; a task's file is read when the task is asked for.

    path: the folder, or its core file.
    core: the bundle without tasks.
    files: task files by the names of their tasks, sorted.
    indexed: task files of the folder, and whether the index states the truth about each.
    """

    def __init__(
        self, path: AnyPath, core: Parts, files: Mapping[str, IndexedFile], indexed: TaskFiles
    ) -> None:
        self.path = path
        self._core = core
        self._files = files
        self._indexed = indexed
        self._heads, self._fetched = 0, 0
        self._parts: OrderedDict[str, Parts] = OrderedDict()

    @property
    def core(self) -> CoreFile:
        """Core file."""
        return self._core.core

    @cached_property
    def whole(self) -> Parts:
        """Bundle of all task files that exist now. Raises as :func:`open_apart`."""
        if entries_beside(self.path)[1] is None:
            places = [self._place(x) for x in self._files.values()]
        else:
            places = parts_beside(self.path)[1]
        return open_apart(self.core, places, self.path, _is_strict(self.path))

    @property
    def _is_read(self) -> bool:
        """True if all files were read; from then on the files are used instead of the index."""
        return "whole" in self.__dict__

    @property
    def loaded(self) -> Parts:
        return self.whole if self._is_read else self._core

    @property
    def names(self) -> Collection[str]:
        return self.whole.names if self._is_read else self._files.keys()

    @property
    def rows(self) -> list[TaskRow] | None:
        if self._is_read or not self._indexed.proven:
            return None
        try:
            return [x.row for x in self._files.values()]
        except BundleFormatError:
            # Nothing is lost with them: the files say the same.
            return None

    @property
    def size(self) -> int:
        if self._is_read:
            return self.whole.size
        return self._core.size + sum(x.size for x in self._files.values())

    @property
    def metadata(self) -> Mapping[str, str]:
        if self._is_read:
            return self.whole.metadata
        return {**self._core.metadata, "tasks": strictjson.dumps(list(self._files))}

    @property
    def header(self) -> int:
        return self.loaded.header + self._heads + self._indexed.index_size

    @property
    def fetched(self) -> int:
        return self.loaded.fetched + self._fetched + self._indexed.index_fetched

    def part(self, task: str) -> Parts:
        """Return the contents of one task's file, as it was when it was first opened.

        If the index is wrong about the task, all files are read.
        """
        if self._is_read:
            return self.whole
        part = self._parts.pop(task, None) or self._opened(task)
        if part is None:
            return self.whole
        self._parts[task] = part
        if len(self._parts) > KEPT:
            self._parts.popitem(last=False)
        return part

    def _opened(self, task: str) -> Parts | None:
        """Open the file of one task; return None if the index is wrong about it."""
        try:
            place = self._place(self._files[task])
            opened = open_apart(self.core, [place], self.path, False, [task])
        except (BundleFormatError, NotThereError):
            return None
        if not opened.names:
            return None
        self._heads += opened.header - self._core.header
        self._fetched += sum(x.fetched for x in opened.parts.values())
        return opened

    def _place(self, file: IndexedFile) -> AnyPath:
        return self._core.files[0].path.parent / file.file


def open_folder(path: AnyPath, opened: Container | None = None) -> Parts | IndexedFolder:
    """Open a folder, or the core file of one, with all its tasks.

    Without a usable index all files are read.

    opened: the core file, if it is open already. On this machine tasks of another core are refused
    in a folder; in a store, where a new core comes beside the old tasks, they are left out. Raises
    as :func:`open_apart`, and UsageError for a folder over HTTP with neither a list nor an index.
    """
    place, entries = entries_beside(path)
    index = None
    if place is None:
        index = _only_index(path)
        place = path / index.core
    core = core_of(opened or Container(place, (CORE,)))
    made = task_files(place.parent, entries, core, lone=True, index=index)
    if not made.files:
        places = parts_beside(path)[1]
        return open_apart(core, places, path, _is_strict(path))
    files = _by_task(made, core, path)
    return IndexedFolder(path, open_apart(core, [], path), files, made)


def open_some(path: AnyPath, opened: Container | None, tasks: Collection[str]) -> Parts:
    """Open some tasks of a folder, or of its core file, from the files named after them.

    If a task is missing, the other files on this machine are tried, because its file may have been
    renamed.

    opened: the core file, if it is open already.
    """
    if opened is None:
        place, named = parts_named(path, tasks)
        opened = Container(place, (CORE,))
    else:
        named = parts_beside(path, tasks)[1]
    core = core_of(opened)
    some = open_apart(core, named, path, False, tasks)
    if isinstance(path, Path) and set(tasks) - set(some.names):
        with suppress(BundleFormatError):  # the others may be damaged, and this one not there
            return open_apart(core, parts_beside(path)[1], path, False, tasks)
    return some


def parts_named(path: AnyPath, tasks: Iterable[str]) -> tuple[AnyPath, list[AnyPath]]:
    """Return the core file of a folder and the files that may hold these tasks.

    See :func:`parts_beside`. For a folder over HTTP that lists nothing, the index is used.
    """
    names = list(tasks)
    try:
        return parts_beside(path, names)
    except UsageError:
        return parts_beside(path / _only_index(path).core, names)


def _only_index(path: AnyPath) -> FolderIndex:
    """Read the index of a folder over HTTP that lists nothing: only the index names its core."""
    index = read_index(path, None)
    if index is None:
        refuse_unlisted(path)
    return index


def _is_strict(path: AnyPath) -> bool:
    return isinstance(path, Path) and is_folder(path)


def _by_task(made: TaskFiles, core: CoreFile, path: AnyPath) -> dict[str, IndexedFile]:
    """Return the files by the names of their tasks; raise what opening all of them would raise."""
    folder = core.file.path.parent
    for error in made.broken.values():
        raise error
    if made.foreign and _is_strict(path):
        raise another_core(Container(folder / made.foreign[0], (TASK,), hold=False), core)
    files: dict[str, IndexedFile] = {}
    for name in sorted(made.files):
        file = made.files[name]
        before = files.setdefault(file.task, file)
        if before is not file:
            raise two_of_one_name(file.task, folder / before.file, folder / name)
    return dict(sorted(files.items()))
