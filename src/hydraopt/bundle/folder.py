"""Bundle in several files: where its core and its tasks are, by a listing and by the index.

A task file is read when its task is wanted. What the index says of a file counts if the listing
shows that the file is unchanged; every other task file is opened.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from hydraopt.bundle.contents import Container, refuse_file
from hydraopt.bundle.encoding import CORE
from hydraopt.bundle.index import FolderIndex, IndexedFile, as_indexed, read_index, renewed_index
from hydraopt.bundle.manifest import TaskRow, row_of_task
from hydraopt.bundle.names import is_task_name, of_tasks, only_core, refuse_unlisted
from hydraopt.bundle.parts import CoreFile, OpenTask, Parts, core_of, open_apart, open_parts
from hydraopt.errors import BundleFormatError, NotThereError, RemoteError
from hydraopt.files import CORE_SUFFIX, AnyPath, Entry, Url, files_in, gone, is_folder
from hydraopt.notes import Note

KEPT: Final = 256
"""Number of task files that stay open after use; each takes some 10 kB of memory."""


@dataclass
class TaskFiles:
    """Task files of a folder.

    files: indexed files, by their names.
    broken: files that cannot be read, and why.
    foreign: files of another core.
    """

    files: dict[str, IndexedFile] = field(default_factory=dict)
    broken: dict[str, BundleFormatError] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)

    def of(self, task: str) -> IndexedFile | None:
        """Return the file of a task; of several, the one that is named after it."""
        mine = [name for name, x in self.files.items() if x.task == task]
        return self.files[(of_tasks(mine, [task]) or sorted(mine))[0]] if mine else None


class Folder:
    """Core file and task files, found in one listing; also the :class:`TaskSource` over them.

    path: the folder, here or in a store, or its core file.
    core: the core file, if it is open already.

    Raises BundleFormatError for a folder that has no core file, or several; UsageError for a folder
    over HTTP with neither a list nor an index.
    """

    def __init__(self, path: AnyPath, core: CoreFile | None = None) -> None:
        self.path = path
        self.folder = path if is_folder(path) else path.parent
        if core is not None:
            self.core = core
        self._heads = 0
        self._parts: OrderedDict[str, Parts] = OrderedDict()

    # --- where files are --------------------------------------------------------------------------

    @cached_property
    def entries(self) -> list[Entry] | None:
        """Listing of the folder; None over HTTP where nothing is listed."""
        try:
            entries = files_in(self.folder)
        except RemoteError:
            raise
        except OSError as error:
            refuse_file("bundle cannot be read", self.folder, error)
        if entries == [] and isinstance(self.folder, Url):
            raise gone(self.folder)
        return entries

    @cached_property
    def place(self) -> AnyPath:
        """Path of the core file."""
        if not is_folder(self.path):
            return self.path
        if self.entries is not None:
            return only_core([self.folder / name for name in self.cores], self.folder)
        if self._any_index is None:
            refuse_unlisted(self.path)
        return self.folder / self._any_index.core

    @property
    def cores(self) -> list[str]:
        """Names of the core files in the listing."""
        return [x.name for x in self.entries or () if x.name.endswith(CORE_SUFFIX)]

    @cached_property
    def core(self) -> CoreFile:
        """Core file, open."""
        return core_of(Container(self.place, (CORE,)))

    @cached_property
    def _any_index(self) -> FolderIndex | None:
        return read_index(self.folder, self.entries)

    @cached_property
    def index(self) -> FolderIndex | None:
        """Usable index of this core."""
        if len(self.cores) > 1:  # Each would write it anew for its own.
            return None
        index = self._any_index
        return index if index is not None and index.core_id == self.core.id else None

    def paths(self, tasks: Collection[str] | None = None) -> list[AnyPath]:
        """Return the task files, or those that may hold these tasks, judging by their names."""
        if self.entries is None:
            if self.index is None:
                refuse_unlisted(self.path)
            files = self.index.files.values()
            names = [x.file for x in files if tasks is None or x.task in tasks]
        else:
            names = [x.name for x in self.entries if is_task_name(x.name)]
            names = names if tasks is None else of_tasks(names, tasks)
        return [self.folder / name for name in names]

    @cached_property
    def _sorted(self) -> tuple[dict[str, IndexedFile], list[Entry]]:
        """Task files that are as the index says, and those that have to be read."""
        index = self.index
        if self.entries is None:
            return dict(index.files if index else {}), []
        known, others = dict[str, IndexedFile](), list[Entry]()
        here = isinstance(self.folder, Path)
        for entry in self.entries:
            if not is_task_name(entry.name):
                continue
            stored = index.files.get(entry.name) if index and not entry.is_folder else None
            unproven = not here and entry.mark is None and entry.size is None
            if index and stored and (unproven or as_indexed(stored, entry, index, here)):
                known[entry.name] = stored
            else:
                others.append(entry)
        return known, others

    @property
    def _is_proven(self) -> bool:
        """True if each row was checked against its file or its listing; over HTTP none is."""
        sized = {x.name for x in self.entries or () if x.size is not None or x.mark is not None}
        here = isinstance(self.folder, Path)
        return self.entries is not None and (here or sized.issuperset(self._sorted[0]))

    @cached_property
    def known(self) -> TaskFiles:
        """All task files, each with its row; those that the index does not know are read."""
        files, others = self._sorted
        made = TaskFiles(dict(files))
        parts = open_parts(self.core, [self.folder / entry.name for entry in others])
        for entry, part in zip(others, parts, strict=True):
            if part is None:
                made.foreign.append(entry.name)
            elif isinstance(part, BundleFormatError):
                made.broken[entry.name] = part
            else:
                made.files[entry.name] = _indexed(part, entry)
        return made

    # --- what they hold ---------------------------------------------------------------------------

    @property
    def is_indexed(self) -> bool:
        """True if opening by the index reads fewer task files than opening all of them."""
        files, others = self._sorted
        return bool(files) and len(others) <= len(files)

    def open(self, tasks: Collection[str] | None = None) -> Parts:
        """Read all task files, or those named after some tasks; raises as :func:`open_apart`.

        If one of the tasks is missing, the other files on this machine are tried, because its file
        may have been renamed. On this machine tasks of another core are refused in a folder; in a
        store, where a new core comes beside the old tasks, they are left out.
        """
        if tasks is None:
            return open_apart(self.core, self.paths(), self.path, self._is_strict)
        some = open_apart(self.core, self.paths(tasks), self.path, False, tasks)
        if isinstance(self.path, Path) and set(tasks) - set(some.names):
            with suppress(BundleFormatError):  # the others may be damaged, and this one not there
                return open_apart(self.core, self.paths(), self.path, False, tasks)
        return some

    @cached_property
    def _bare(self) -> Parts:
        """Bundle without tasks."""
        return open_apart(self.core, [], self.path)

    @cached_property
    def _files(self) -> dict[str, IndexedFile]:
        """Task files by the names of their tasks, sorted.

        All files are read, which raises for what is wrong with them, where one cannot be read, is
        of another core, or seems to have the task of another.
        """
        files = {x.task: x for _, x in sorted(self.known.files.items())}
        strange = self.known.broken or (self.known.foreign and self._is_strict)
        if strange or len(files) < len(self.known.files):
            _ = self.whole
        return dict(sorted(files.items()))

    @property
    def _is_strict(self) -> bool:
        """True if tasks of another core are refused."""
        return isinstance(self.path, Path) and is_folder(self.path)

    @cached_property
    def whole(self) -> Parts:
        """Bundle of all task files that exist now. Raises as :func:`open_apart`."""
        return Folder(self.path, self.core).open()

    @property
    def _is_read(self) -> bool:
        """True if all files were read; from then on the files are used instead of the index."""
        return "whole" in self.__dict__

    @property
    def loaded(self) -> Parts:
        return self.whole if self._is_read else self._bare

    @property
    def names(self) -> Collection[str]:
        files = self._files
        return self.whole.names if self._is_read else files.keys()

    @cached_property
    def _rows(self) -> list[TaskRow] | None:
        """Rows of the index, if they are known to be true of all files and are valid."""
        if not self._is_proven:
            return None
        try:
            return [x.row for x in self._files.values()]
        except BundleFormatError:
            # Nothing is lost with them: the files say the same.
            return None

    @property
    def is_whole(self) -> bool:
        return self._is_read or self._rows is None

    @property
    def rows(self) -> list[TaskRow]:
        return self.whole.rows if self._is_read or self._rows is None else self._rows

    @property
    def size(self) -> int:
        if self._is_read:
            return self.whole.size
        return self._bare.size + sum(x.size for x in self._files.values())

    @property
    def header(self) -> int:
        return self.loaded.header + self._heads + (self.index.size if self.index else 0)

    def part(self, task: str) -> Parts:
        """Return the contents of one task's file, as it was when it was first opened.

        If the index is wrong about the task, all files are read.
        """
        if self._is_read:
            return self.whole
        part = self._parts.pop(task, None)
        if part is None:
            part = self.by_index([task], self._files)
            if part is None:
                return self.whole
            self._heads += part.header - self._bare.header
        self._parts[task] = part
        if len(self._parts) > KEPT:
            self._parts.popitem(last=False)
        return part

    def by_index(self, tasks: Sequence[str], files: Mapping[str, IndexedFile]) -> Parts | None:
        """Open the files of some tasks; return None if one does not hold its task.

        files: by task, as an index states them.
        """
        try:
            places = [self.folder / files[task].file for task in tasks]
            opened = open_apart(self.core, places, self.path, False, tasks)
        except (KeyError, BundleFormatError, NotThereError):
            return None
        return opened if set(tasks) <= set(opened.names) else None


def open_folder(
    path: AnyPath, core: CoreFile | None, tasks: Collection[str] | None
) -> Parts | Folder:
    """Open a folder, or the core file of one, with all its tasks or some.

    core: the core file, if it is open already.
    """
    folder = Folder(path, core)
    if tasks is not None:
        return folder.open(tasks)
    if not folder.is_indexed:
        return folder.open()
    _ = folder.names  # Raises for what is wrong with a task file.
    return folder


def renew_index(path: Path) -> Note | None:
    """Rewrite the index of a folder with one core; return a note if it cannot be written.

    Task files that the old index does not describe are read. Raises BundleFormatError, OSError.
    """
    folder = Folder(path)
    core = folder.place.name, folder.core.id
    return renewed_index(path, core, folder.known.files.values())


def _indexed(part: OpenTask, entry: Entry) -> IndexedFile:
    task, sizes = part.manifest.tasks[0], part.file.sizes
    carried = sum(size for name, size in sizes.items() if name.startswith("carried/"))
    config = part.manifest.configs[task.config]
    row = row_of_task(task, config, sizes.get("task/0", 0), carried)
    # The mark is of the listing, from before the file was read: a later change shows.
    return IndexedFile(entry.name, part.file.size, row.name, row, entry.mark)
