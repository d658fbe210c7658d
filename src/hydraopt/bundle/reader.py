"""Read a bundle: check everything before it is used, and read it when it is needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hydraopt.adapters.basefiles import BaseTensors, open_base
from hydraopt.adapters.rawtensor import RawTensor
from hydraopt.bundle.bounds import each_naming, naming
from hydraopt.bundle.contents import Container, Contents
from hydraopt.bundle.peft.below import rounded_copy, weights_at_hand
from hydraopt.bundle.shared import Bases, Commons, each_bases, each_common, read_shared
from hydraopt.bundle.spec import Manifest
from hydraopt.bundle.task import TaskAdapter
from hydraopt.bundle.tensors import base_tensor
from hydraopt.coding.dense import DenseRecord
from hydraopt.coding.stream import StreamReader
from hydraopt.errors import TaskNotFoundError, explain
from hydraopt.files.url import AnyPath
from hydraopt.values import closest

if TYPE_CHECKING:
    from hydraopt.bundle.row import TaskRow

__all__ = ["Bundle", "TaskSource", "no_such_task"]

# Blobs that unpack to so many times their bytes are kept: many tasks may name one.
_DENSE = 16


def no_such_task(name: str, there: Iterable[str], path: AnyPath) -> TaskNotFoundError:
    """Return the error for a name that no task has; it suggests similar names."""
    # Only the files of the requested tasks are open, so other names may be unknown.
    expected = closest(name, sorted(there)) or f"a name from hydraopt inspect --list {path}"
    return TaskNotFoundError(explain("no such task", file=path, got=repr(name), expected=expected))


@dataclass
class _DecodedCore:
    """Decoded data that tasks share; one object for all bundles over the same core."""

    bases: list[Bases] | None = None
    commons: Commons | None = None


class TaskSource(Protocol):
    """Supplier of the manifest and the stored bytes of a bundle, in one file or in several."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Metadata of the header."""

    @property
    def names(self) -> Collection[str]:
        """Names of all tasks, sorted; membership tests take constant time."""

    @property
    def rows(self) -> list[TaskRow] | None:
        """Rows of all tasks; None if they have to be derived from the whole manifest."""

    @property
    def size(self) -> int:
        """Total bytes of all files; an index does not count."""

    @property
    def header(self) -> int:
        """Bytes read so far to find and open the files."""

    @property
    def fetched(self) -> int:
        """Bytes that came from a store so far; bytes from the cache do not count."""

    @property
    def loaded(self) -> Contents:
        """Contents read so far: the shared data, and maybe tasks."""

    @property
    def whole(self) -> Contents:
        """Contents of all files, which are read if they have not been."""

    def part(self, task: str) -> Contents:
        """Return the contents that hold a task, if any do."""


class Bundle(Mapping[str, TaskAdapter]):
    """Tasks by name, sorted. Reading one task reads the shared bases and that task's own bytes.

    path: the file or folder.
    base: see :func:`hydraopt.open_bundle`.
    source: supplier of manifest and bytes. In a folder with an index it reads a task's file when
        the task is asked for, and all files for ``manifest``, ``tensor_bytes`` and ``files``.
    """

    def __init__(self, path: AnyPath, base: BaseTensors | None, source: TaskSource) -> None:
        self.path = path
        self.base = base
        self.source = source
        self._read, self._fetched = 0, 0
        self._decoded = _DecodedCore()
        self._dense: dict[int, dict[str, RawTensor]] = {}

    @property
    def manifest(self) -> Manifest:
        """Manifest of the bundle."""
        return self.source.whole.manifest

    @property
    def core(self) -> Manifest:
        """Manifest of the bundle, maybe without its tasks, so that their files need not be read."""
        return self.source.loaded.manifest

    @property
    def rows(self) -> list[TaskRow]:
        """Row of each task, available before its file is read."""
        from hydraopt.bundle.row import rows_of

        rows = self.source.rows
        return rows if rows is not None else rows_of(self.source.whole)

    @property
    def is_whole(self) -> bool:
        """True if the whole manifest is loaded, or :attr:`rows` would have to load it."""
        return self.source.rows is None

    @property
    def metadata(self) -> Mapping[str, str]:
        """Metadata of the header, for information."""
        return self.source.metadata

    @property
    def version(self) -> int:
        """Format version."""
        return self.source.loaded.version

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
        return self.source.size

    @property
    def core_bytes(self) -> int:
        """Bytes of the data that tasks share."""
        return self.source.loaded.sizes["shared"]

    @property
    def bytes_read(self) -> int:
        """Bytes read from its files so far."""
        return self.source.header + self._read

    @property
    def files(self) -> list[Container]:
        """All files, the core first."""
        return self.source.whole.files

    @property
    def fetched(self) -> int:
        """Bytes that came from a store so far; what was in the cache does not count."""
        return self.source.fetched + self._fetched

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
        return dict(self.source.whole.sizes)

    def __getitem__(self, name: str) -> TaskAdapter:
        """Return the task of that name as a fresh object; what it decodes is freed with it.

        Raises TaskNotFoundError, naming similar ones.
        """
        if name not in self:
            raise no_such_task(str(name), self, self.path)
        contents = self.source.part(name)
        if name not in contents.tasks:
            raise no_such_task(name, self, self.path)
        return TaskAdapter(self, contents, contents.tasks[name])

    def one_by_one(self) -> Iterator[TaskAdapter]:
        """Yield all tasks; tasks of one stream follow one another, so that it is decoded once."""
        before: TaskAdapter | None = None
        whole = self.source.whole
        order = sorted(whole.tasks.values(), key=lambda x: -1 if x.content is None else x.content)
        for entry in order:
            task = TaskAdapter(self, whole, entry)
            if before is not None and before.entry.content == entry.content is not None:
                task.reuse(before)
            yield task
            before = task

    def __contains__(self, name: object) -> bool:
        return name in self.source.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.source.names)

    def __len__(self) -> int:
        return len(self.source.names)

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r}, {len(self)} tasks, {len(self.core.modules)} modules)"

    def checksum(self, name: str) -> str:
        """Return the checksum that a file states for a tensor's bytes; the bytes are not read."""
        return self._of(name).checksum(name)

    def read(self, name: str, contents: Contents | None = None) -> bytes:
        """Read the bytes of one tensor of the file and check them against its checksum.

        contents: contents that hold the tensor; None for those of the whole bundle.

        Raises ChecksumError; BundleFormatError if the file changed since it was opened.
        """
        contents = contents or self._of(name)
        file = contents.places[name][0]
        before = file.fetched
        data = contents.read(name)
        self._read += len(data)
        if file not in self.source.loaded.files:  # which the source counts
            self._fetched += file.fetched - before
        return data

    def _of(self, name: str) -> Contents:
        """Return the contents that hold the tensor; shared data are in the core."""
        return self.source.loaded if name == "shared" else self.source.whole

    def sha256(self) -> str:
        """Return the SHA-256 of the file in hex; several files are hashed one after another."""
        digest = hashlib.sha256()
        for piece in (piece for file in self.files for piece in file.content()):
            digest.update(piece)
        return digest.hexdigest()

    def read_blob(self, index: int, contents: Contents | None = None) -> dict[str, RawTensor]:
        """Return the carried tensors of one blob, by key.

        contents: as for :meth:`read`.
        """
        whole = contents is None or contents is self.source.loaded
        if whole and index in self._dense:
            return self._dense[index]
        contents = contents or self.source.whole
        blob, data = contents.manifest.blobs[index], self.read(f"carried/{index}", contents)
        with naming(self.path):
            from hydraopt.bundle.carried import unpack_blob

            tensors = unpack_blob(blob, data, self.path)
        if whole and blob.raw_size > _DENSE * len(data):
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

    def open_stream(
        self, name: str, records: int, contents: Contents | None = None
    ) -> StreamReader:
        """Return a reader of ``shared`` or a ``task/i``, which must have that number of records.

        contents: as for :meth:`read`.

        Raises ChecksumError or BundleFormatError, also for more numbers than the file may hold.
        """
        contents = contents or self._of(name)
        data = self.read(name, contents)
        with naming(self.path):
            return contents.allowance.open(name, data, records)

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
            found = ([], []) if reader is None else read_shared(reader, self.core, self.path)
            # At the end: what an interrupt left half done would pass for a bundle without bases.
            made.bases, made.commons = found
        return made.bases
