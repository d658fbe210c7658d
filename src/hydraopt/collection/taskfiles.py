"""Task files of a folder, each with its row: from the index if unchanged, else from the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydraopt.bundle.container import CORE, CORE_SUFFIX
from hydraopt.bundle.contents import Container
from hydraopt.bundle.row import row_of_file
from hydraopt.collection.apart import CoreFile, OpenTask, core_of, open_parts
from hydraopt.collection.beside import entries_beside, is_task_name, of_tasks
from hydraopt.collection.index import (
    FolderIndex,
    IndexedFile,
    as_indexed,
    read_index,
    renewed_index,
)
from hydraopt.errors import BundleFormatError
from hydraopt.files.answers import Entry
from hydraopt.files.url import AnyPath, Url
from hydraopt.notes import Note

__all__ = ["TaskFiles", "renew_index", "task_files"]


@dataclass
class TaskFiles:
    """Task files of a folder.

    files: indexed files, by their names.
    broken: files that cannot be read, and why.
    foreign: files of another core.
    proven: True if each row was checked against its file or its listing; over HTTP none is.
    index_size, index_fetched: bytes of the index, and of those the ones that came from a store.
    """

    files: dict[str, IndexedFile] = field(default_factory=dict)
    broken: dict[str, BundleFormatError] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)
    proven: bool = True
    index_size: int = 0
    index_fetched: int = 0

    def of(self, task: str) -> IndexedFile | None:
        """Return the file of a task; of several, the one that is named after it."""
        mine = [name for name, x in self.files.items() if x.task == task]
        return self.files[(of_tasks(mine, [task]) or sorted(mine))[0]] if mine else None


def task_files(
    folder: AnyPath,
    entries: Sequence[Entry] | None,
    core: CoreFile,
    lone: bool = False,
    index: FolderIndex | None = None,
) -> TaskFiles:
    """Return the task files of a core, on this machine or in a store; read those not in the index.

    entries: listing of the folder; None if it cannot be listed, and the index alone counts.
    lone: True if the caller can do without the result, which is empty if most files had to be read.
    index: index of the folder, if it was read to find the core.

    Raises RemoteError.
    """
    if index is None:
        cores = sum(x.name.endswith(CORE_SUFFIX) for x in entries or ())
        # Of several cores each would write it anew for its own.
        index = read_index(folder, entries, core.id) if cores < 2 else None
    elif index.core_id != core.id:
        index = None
    made = TaskFiles()
    if index is not None:
        made.index_size, made.index_fetched = index.size, index.fetched
    if entries is None:
        made.files, made.proven = dict(index.files if index else {}), False
        return made
    others = []
    for entry in entries:
        if not is_task_name(entry.name):
            continue
        stored = index.files.get(entry.name) if index else None
        if stored is None or index is None or entry.is_folder:
            others.append(entry)
        elif entry.mark is None and entry.size is None and isinstance(folder, Url):
            made.files[entry.name], made.proven = stored, False
        elif as_indexed(stored, entry, index, isinstance(folder, Path)):
            made.files[entry.name] = stored
        else:
            others.append(entry)
    if lone and len(others) > len(made.files):
        return TaskFiles()
    _read_into(made, folder, others, core)
    return made


def renew_index(folder: Path) -> Note | None:
    """Rewrite the index of a folder with one core; return a note if it cannot be written.

    Task files that the old index does not describe are read. Raises BundleFormatError, OSError.
    """
    place, entries = entries_beside(folder)
    assert place is not None  # a folder here can be listed
    core = core_of(Container(place, (CORE,)))
    files = task_files(folder, entries, core).files.values()
    return renewed_index(folder, (place.name, core.id), files)


def _read_into(made: TaskFiles, folder: AnyPath, entries: Sequence[Entry], core: CoreFile) -> None:
    parts = open_parts(core, [folder / entry.name for entry in entries])
    for entry, part in zip(entries, parts, strict=True):
        if part is None:
            made.foreign.append(entry.name)
        elif isinstance(part, BundleFormatError):
            made.broken[entry.name] = part
        else:
            made.files[entry.name] = _indexed(part, entry)


def _indexed(part: OpenTask, entry: Entry) -> IndexedFile:
    task = part.manifest.tasks[0]
    row = row_of_file(task, part.manifest.configs[task.config], part.file.sizes)
    # The mark is of the listing, from before the file was read: a later change shows.
    return IndexedFile(entry.name, part.file.size, row.name, row, entry.mark)
