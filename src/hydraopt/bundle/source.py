"""What lies at a path or an address, opened: a bundle in one file, or in several."""

from __future__ import annotations

from collections.abc import Sequence

from hydraopt.bundle.apart import core_of, open_apart
from hydraopt.bundle.beside import parts_beside
from hydraopt.bundle.container import CORE, FORMAT, TASK
from hydraopt.bundle.indexed import IndexedFolder, open_folder, parts_named
from hydraopt.bundle.opening import Container, Opened, open_source, refuse_file
from hydraopt.files.folders import is_folder
from hydraopt.files.url import AnyPath

__all__ = ["source_at"]


def source_at(path: AnyPath, wanted: Sequence[str] | None = None) -> Opened | IndexedFolder:
    """A bundle in one file; or a folder, or a core file, with the task files in it or beside it.

    wanted: tasks; of several files no others are opened. In a store, where a new core comes
    beside the old tasks, those of another core are left out. Raises as
    :func:`hydraopt.bundle.open_bundle`.
    """
    if is_folder(path):
        if wanted is None:
            return open_folder(path)
        core, tasks = parts_named(path, wanted)
        return open_apart(core_of(Container(core, (CORE,))), tasks, path, False, wanted)
    file = Container(path, (FORMAT, CORE, TASK))
    if file.format == TASK:
        do = "Put its core file beside it, and give that or the folder"
        refuse_file("a task file holds nothing without its core", path, do=do)
    if file.format == FORMAT:
        return open_source(file)
    if wanted is None:
        return open_folder(path, file)
    return open_apart(core_of(file), parts_beside(path, wanted)[1], path, False, wanted)
