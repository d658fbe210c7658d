"""Reading one task at a time from a bundle that may change in between."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from hydraopt.bundle.folder import Folder
from hydraopt.bundle.index import IndexedFile, read_index
from hydraopt.bundle.opening import open_bundle
from hydraopt.bundle.parts import CoreFile, Parts
from hydraopt.bundle.reader import Bundle
from hydraopt.files import (
    AnyPath,
    is_folder,
)

if TYPE_CHECKING:
    pass


def core_of_bundle(bundle: Bundle) -> CoreFile | None:
    """Return the core file of a bundle in several files; None for a bundle in one file."""
    source = bundle.source
    return source.core if isinstance(source, Parts | Folder) else None


class Following:
    """Bundle that can be read while it changes.

    A core that did not change is read and decoded once, and its folder's index is read once, so
    each further task costs its own bytes. Tasks that the index lacks, or states wrongly, are
    searched by the names of files.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path
        self._last: Bundle | None = None
        self._indexed: Mapping[str, IndexedFile] | None = None

    @property
    def last(self) -> Bundle | None:
        """Bundle returned by the last call of :meth:`tasks`; None before the first."""
        return self._last

    def tasks(self, names: Iterable[str]) -> Bundle:
        """Return the bundle as it is now, for these tasks. Raises as :func:`open_bundle`."""
        wanted, before = list(dict.fromkeys(names)), self._last
        if before is None or not before.source.loaded.files[0].is_current():
            self._last, self._indexed = open_bundle(self.path, tasks=()), None
        else:
            self._last = before
        core, fresh = core_of_bundle(self._last), self._last
        if core is not None:
            fresh = Bundle(self.path, None, self._opened(core, wanted))
        for name in wanted:
            fresh[name]
        for known in (self._last, before):
            if known is not None:
                fresh.take_core(known)
        self._last = fresh
        return fresh

    def _opened(self, core: CoreFile, wanted: list[str]) -> Parts:
        folder = Folder(self.path if is_folder(self.path) else core.file.path, core)
        if self._indexed is None:
            index = read_index(folder.folder, None)
            fits = index is not None and index.core_id == core.id
            self._indexed = {x.task: x for x in index.files.values()} if index and fits else {}
        return folder.by_index(wanted, self._indexed) or folder.open(wanted)
