"""Opening the bundle at a path or an address, in one file or in several."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hydraopt.bundle.container import CORE, FORMAT, TASK
from hydraopt.bundle.contents import Container, Contents, CoreFile, open_source, refuse_file
from hydraopt.collection.apart import core_of, open_apart
from hydraopt.collection.beside import parts_beside
from hydraopt.collection.indexed import IndexedFolder, open_folder, parts_named
from hydraopt.errors import BundleFormatError
from hydraopt.files.folders import is_folder
from hydraopt.files.url import AnyPath

__all__ = ["source_at"]


def source_at(path: AnyPath, wanted: Sequence[str] | None = None) -> Contents | IndexedFolder:
    """Open a bundle in one file, or a folder or core file with its task files.

    wanted: tasks; of a bundle in several files only these are opened. In a store, where a new core
    comes beside the old tasks, those of another core are left out. Raises as
    :func:`hydraopt.bundle.open_bundle`.
    """
    if is_folder(path):
        if wanted is None:
            return open_folder(path)
        core, tasks = parts_named(path, wanted)
        return _some(path, core_of(Container(core, (CORE,))), tasks, wanted)
    file = Container(path, (FORMAT, CORE, TASK))
    if file.format == TASK:
        do = "Put its core file beside it, and give that or the folder"
        refuse_file("a task file holds nothing without its core", path, do=do)
    if file.format == FORMAT:
        return open_source(file)
    if wanted is None:
        return open_folder(path, file)
    return _some(path, core_of(file), parts_beside(path, wanted)[1], wanted)


def _some(
    path: AnyPath, core: CoreFile, named: Sequence[AnyPath], wanted: Sequence[str]
) -> Contents:
    """Open some tasks from the files named after them.

    If a task is missing, the other files on this machine are tried, because its file may have been
    renamed.
    """
    opened = open_apart(core, named, path, False, wanted)
    missing = set(wanted) - {task.name for task in opened.manifest.tasks}
    if missing and isinstance(path, Path):
        with suppress(BundleFormatError):  # the others may be damaged, and this one not there
            return open_apart(core, parts_beside(path)[1], path, False, wanted)
    return opened
