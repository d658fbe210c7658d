"""Opening a bundle: everything is checked before it is believed, and read when it is needed."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hydraopt.adapters.basefiles import BaseTensors, open_base
from hydraopt.adapters.rawtensor import RawTensor
from hydraopt.bundle.bounds import Allowance, each_naming, naming
from hydraopt.bundle.carried import unpack_blob
from hydraopt.bundle.contents import Container, Contents
from hydraopt.bundle.restore.below import rounded_copy, weights_at_hand
from hydraopt.bundle.row import TaskRow, rows_of
from hydraopt.bundle.shared import Bases, Commons, each_bases, each_common, read_shared
from hydraopt.bundle.spec import Manifest, TaskEntry
from hydraopt.bundle.task import TaskAdapter
from hydraopt.bundle.tensors import base_tensor
from hydraopt.coding.dense import DenseRecord
from hydraopt.coding.stream import StreamReader
from hydraopt.collection.indexed import IndexedFolder
from hydraopt.collection.opening import source_at
from hydraopt.errors import TaskNotFoundError, explain
from hydraopt.files.url import AnyPath, place_of
from hydraopt.values import closest

__all__ = ["Bundle", "no_such_task", "open_bundle"]

# Blobs that unpack to so many times their bytes are kept: many tasks may name one.
_DENSE = 16
# Tasks of a folder whose files stay open after use; each takes some 10 kB of memory.
_KEPT = 256


def open_bundle(
    path: str | os.PathLike[str],
    base: str | os.PathLike[str] | BaseTensors | None = None,
    *,
    tasks: Iterable[str] | None = None,
) -> Bundle:
    """Open a bundle; only its header and its manifest are read.

    path: the file; or the folder of a core file and task files; or a core file, with the task files
    beside it that belong to it; or an address of one of these, of which ranges are fetched that are
    not in the cache (hydraopt.files.cache). In a folder with an index a task file is read when its
    task is asked for, and is taken as it is then.
    tasks: those that are wanted. Of a bundle in several files the others are not opened, so that
    the price does not depend on how many there are. TaskNotFoundError if one is not there.
    base: the base model's folder, or its own tensors by name, for tasks that hold differences from
    them. Raises BundleFormatError for a file that is not a bundle or is damaged, ChecksumError for
    a damaged manifest, UnsupportedVersionError for a bundle of a newer format, RemoteError for an
    address that cannot be read.
    """
    place = place_of(path)
    wanted = None if tasks is None else list(dict.fromkeys(tasks))
    bundle = Bundle(place, open_base(base), source_at(place, wanted))
    for name in wanted or ():
        bundle[name]
    return bundle


def no_such_task(name: str, there: Iterable[str], path: AnyPath) -> TaskNotFoundError:
    """Return the error for a name that no task has; it suggests similar names."""
    # Of several files only those of wanted tasks are open: what else is there is not known.
    expected = closest(name, sorted(there)) or "one that hydraopt inspect lists, if any"
    return TaskNotFoundError(explain("no such task", file=path, got=repr(name), expected=expected))


@dataclass
class _DecodedCore:
    """Decoded data that tasks share; one object for all bundles over the same core."""

    bases: list[Bases] | None = None
    commons: Commons | None = None


@dataclass
class _Taken:
    """Bytes read from the files of single tasks, and how many of them came from a store."""

    read: int = 0
    fetched: int = 0


class Bundle(Mapping[str, TaskAdapter]):
    """Tasks by name, sorted. Reading one task reads the shared bases and that task's own bytes.

    path: the file or folder.  base: see :func:`open_bundle`.

    In a folder with an index each task is a bundle of its own over the same core: what its entry
    counts, it counts in ``task.bundle``. What is about all tasks together reads all files first:
    ``manifest``, ``tensor_bytes``, ``files``.
    """

    def __init__(
        self,
        path: AnyPath,
        base: BaseTensors | None = None,
        source: Contents | IndexedFolder | None = None,
    ) -> None:
        self.path = path
        self.base = base
        self._source = source or source_at(path)
        self._read = 0
        self._decoded = _DecodedCore()
        self._dense: dict[int, dict[str, RawTensor]] = {}
        self._parts: OrderedDict[str, Bundle] = OrderedDict()
        self._by_parts = _Taken()
        self._over: _Taken | None = None
        self._allowed: tuple[Contents, Allowance] | None = None

    @property
    def manifest(self) -> Manifest:
        """Manifest of the bundle."""
        return self._source.whole.manifest

    @property
    def core(self) -> Manifest:
        """Manifest of the bundle, maybe without its tasks, so that their files need not be read."""
        return self._source.known.manifest

    @property
    def rows(self) -> list[TaskRow]:
        """Row of each task, available before its file is read."""
        indexed = self._source.rows if isinstance(self._source, IndexedFolder) else None
        return indexed if indexed is not None else rows_of(self._source.whole)

    @property
    def is_whole(self) -> bool:
        """True if the whole manifest is loaded, or :attr:`rows` would have to load it."""
        return not isinstance(self._source, IndexedFolder) or self._source.rows is None

    @property
    def metadata(self) -> Mapping[str, str]:
        """Metadata of the header, for information."""
        return self._source.metadata

    @property
    def version(self) -> int:
        """Format version."""
        return self._source.known.version

    @property
    def base_model(self) -> str | None:
        """Base model of all tasks."""
        return self.core.base_model

    @property
    def recipe(self) -> Mapping[str, Any]:
        """Recipe by which the bundle was made."""
        return self.core.recipe

    @property
    def size(self) -> int:
        """Bytes of the file, or of the core and all task files; an index does not count."""
        return self._source.size

    @property
    def core_bytes(self) -> int:
        """Bytes of the data that tasks share."""
        return self._source.known.sizes["shared"]

    @property
    def bytes_read(self) -> int:
        """Bytes read from its files so far."""
        return self._source.header + self._read + self._by_parts.read

    @property
    def files(self) -> list[Container]:
        """All files, the core first."""
        return self._source.whole.files

    @property
    def fetched(self) -> int:
        """Bytes that came from a store so far; what was in the cache does not count."""
        return self._source.fetched + self._by_parts.fetched

    @property
    def allowance(self) -> Allowance:
        """Limit on the numbers that the bundle's streams may decode to."""
        known = self._source.known
        if self._allowed is None or self._allowed[0] is not known:
            own = _sum_of(known.sizes, "task/")
            self._allowed = known, Allowance(known.sizes["shared"] + own)
        return self._allowed[1]

    @property
    def source(self) -> Contents | IndexedFolder:
        """Source of the bundle's tensors."""
        return self._source

    def decode_core(self) -> None:
        """Decode what tasks share, unless that was done."""
        self._bases  # noqa: B018  # kept by being asked for

    def take_core(self, other: Bundle) -> None:
        """Take what ``other`` has decoded of a core, if it is the same core."""
        mine, theirs = (
            (x.checksum("shared"), x.core.modules, x.core.tensors) for x in (self, other)
        )
        if mine == theirs and self._decoded.bases is None:
            self._decoded = other._decoded

    @property
    def tensor_bytes(self) -> dict[str, int]:
        """Bytes of each tensor of the file, in file order: what each thing in a bundle costs."""
        return dict(self._source.whole.sizes)

    def __getitem__(self, name: str) -> TaskAdapter:
        """Return the task of that name as a fresh object; what it decodes is freed with it.

        Raises TaskNotFoundError, naming similar ones.
        """
        if name not in self:
            raise no_such_task(str(name), self, self.path)
        kept = None if self._source.is_read else self._parts.get(name)
        if kept is not None:
            return self._kept(name, kept)._only
        part = self._source.part(name)
        if part is None:
            # The index is wrong about it: from here on the files count.
            part = self._source.whole
            if name not in part.names:
                raise no_such_task(str(name), self, self.path)
        if part is self._source.known:
            return TaskAdapter(self, self._tasks[name])
        return self._kept(name, Bundle(self.path, self.base, part))._only

    def _kept(self, name: str, part: Bundle) -> Bundle:
        """Return the bundle of one task over the same core; it is kept as the last one used."""
        part.base, part._decoded, part._over = self.base, self._decoded, self._by_parts
        self._parts.pop(name, None)
        self._parts[name] = part
        if len(self._parts) > _KEPT:
            self._parts.popitem(last=False)
        return part

    @property
    def _only(self) -> TaskAdapter:
        (entry,) = self._tasks.values()
        return TaskAdapter(self, entry)

    @cached_property
    def _tasks(self) -> dict[str, TaskEntry]:
        return {entry.name: entry for entry in self.manifest.tasks}

    def one_by_one(self) -> Iterator[TaskAdapter]:
        """Yield all tasks; tasks of one stream follow one another, so that it is decoded once."""
        before: TaskAdapter | None = None
        order = sorted(self._tasks.values(), key=lambda x: -1 if x.content is None else x.content)
        for entry in order:
            task = TaskAdapter(self, entry)
            if before is not None and before.entry.content == entry.content is not None:
                task.reuse(before)
            yield task
            before = task

    def __contains__(self, name: object) -> bool:
        return name in self._source.names

    def __iter__(self) -> Iterator[str]:
        return iter(self._source.names)

    def __len__(self) -> int:
        return len(self._source.names)

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r}, {len(self)} tasks, {len(self.core.modules)} modules)"

    def checksum(self, name: str) -> str:
        """Return the checksum that a file states for a tensor's bytes; the bytes are not read."""
        return self._of(name).checksum(name)

    def read(self, name: str) -> bytes:
        """Read the bytes of one tensor of the file and check them against its checksum.

        Raises ChecksumError; BundleFormatError if the file changed since it was opened.
        """
        opened = self._of(name)
        file = opened.places[name][0]
        before = file.fetched
        data = opened.read(name)
        self._read += len(data)
        if self._over is not None:
            self._over.read += len(data)
            if name != "shared":  # which is in the core that all have
                self._over.fetched += file.fetched - before
        return data

    def _of(self, name: str) -> Contents:
        """Return the source that contains the tensor; shared data are in the core."""
        return self._source.known if name == "shared" else self._source.whole

    def sha256(self) -> str:
        """Return the SHA-256 of the file in hex; several files are hashed one after another."""
        digest = hashlib.sha256()
        for piece in (piece for file in self.files for piece in file.content()):
            digest.update(piece)
        return digest.hexdigest()

    def read_blob(self, index: int) -> dict[str, RawTensor]:
        """Return the carried tensors of one blob, by key."""
        if index in self._dense:
            return self._dense[index]
        blob, data = self.manifest.blobs[index], self.read(f"carried/{index}")
        with naming(self.path):
            tensors = unpack_blob(blob, data, self.path)
        if self._over is None and blob.raw_size > _DENSE * len(data):
            self._dense[index] = tensors
        return tensors

    def bases(self, module: int) -> Bases:
        """Return the shared bases, left (m, q) and right (n, q), of the module of that index."""
        return self._bases[module] if self._bases else (None, None)

    def read_bases(self) -> Iterator[Bases]:
        """Yield the bases of all modules in order, decoded anew and not kept by the bundle.

        Yields nothing if nothing is shared. For callers that keep them in another type than
        :meth:`bases`.
        """
        reader = self._open_shared()
        if reader is not None:
            yield from self._read_bases(reader)

    def common(self, tensor: int) -> DenseRecord | None:
        """Return the shared record of the coded tensor with that index, if there is one."""
        return self._commons[tensor] if self._commons else None

    def give_base(self, base: str | os.PathLike[str] | None) -> None:
        """Take the base model's folder, unless one was given or no tensor depends on it.

        Raises UsageError for a folder without weight files that differences from it need.
        """
        if self.base is None and base and Path(base).is_dir():
            if any(entry.base for entry in self.core.tensors):
                self.base = open_base(base)
            elif any(map(rounded_copy, self.core.tensors)):
                self.base = weights_at_hand(base) or None

    def base_tensor(self, tensor: int) -> RawTensor | None:
        """Return the base model's tensor that a coded one is the difference from, or None.

        Raises UsageError without the base model, BaseMismatchError for another one.
        """
        entry = self.core.tensors[tensor]
        if entry.base is None:
            return None
        return base_tensor(self.base, entry, self.path)

    def open_stream(self, name: str, records: int) -> StreamReader:
        """Return a reader of ``shared`` or a ``task/i``, which must have that number of records.

        Raises ChecksumError or BundleFormatError, also for more numbers than the file may hold.
        """
        data = self.read(name)
        with naming(self.path):
            return self.allowance.open(name, data, records)

    def _open_shared(self) -> StreamReader | None:
        if not self.core_bytes:
            return None
        return self.open_stream("shared", len(self.core.modules) + len(self.core.tensors))

    def _read_bases(self, reader: StreamReader) -> Iterator[Bases]:
        yield from each_naming(each_bases(reader, self.core.modules), self.path)
        with naming(self.path):
            commons = list(each_common(reader, self.core.tensors))
            reader.close()
        # Kept: whoever reads the bases has paid for them, and tasks are few that need them.
        self._decoded.commons = commons

    @property
    def _commons(self) -> Commons:
        if self._decoded.commons is None:
            reader = self._open_shared()
            for _ in self._read_bases(reader) if reader is not None else ():
                pass
        return self._decoded.commons or []

    @property
    def _bases(self) -> list[Bases]:
        made = self._decoded
        if made.bases is None:
            reader = self._open_shared()
            made.bases, made.commons = [], []
            if reader is not None:
                made.bases, made.commons = read_shared(reader, self.core, self.path)
        return made.bases


def _sum_of(sizes: Mapping[str, int], start: str) -> int:
    return sum(size for name, size in sizes.items() if name.startswith(start))
