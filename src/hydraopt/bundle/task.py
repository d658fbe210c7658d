"""One task of a bundle, decoded when asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

from hydraopt.adapters import Adapter, BaseTensors, ExtraKind, RawTensor
from hydraopt.bundle.contents import Contents, TaskSource
from hydraopt.bundle.entries import KeptRanks, ModuleEntry, default_key
from hydraopt.bundle.limits import each_naming, naming
from hydraopt.bundle.manifest import Manifest, TaskEntry
from hydraopt.bundle.payload import Bases, Commons, each_bases, each_common, read_shared
from hydraopt.bundle.tensors import TensorEntry, base_tensor, reference_of, tensor_of
from hydraopt.codec import (
    Array,
    DenseRecord,
    Drawn,
    Factors,
    Mode,
    SplitRecord,
    StreamReader,
    matrix_shape,
    read_dense,
    read_split_record,
)
from hydraopt.errors import AdapterFormatError, ExportError, explain
from hydraopt.files import AnyPath


class Described(Protocol):
    """A tensor's header: its dtype, a safetensors name, and its shape."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


# Blobs that unpack to so many times their bytes are kept: many tasks may name one.
_DENSE = 16


@dataclass
class _DecodedCore:
    """Decoded data that tasks share; one object for all bundles over the same core."""

    bases: list[Bases] | None = None
    commons: Commons | None = None


class BundleData:
    """Stored bytes of a bundle, and the data that its tasks share, decoded once.

    path: the file or folder.
    base: see :func:`hydraopt.open_bundle`.
    source: supplier of manifest and bytes. In a folder with an index it reads a task's file when
        the task is asked for, and all files for ``manifest``, ``tensor_bytes`` and ``files``.
    """

    def __init__(self, path: AnyPath, base: BaseTensors | None, source: TaskSource) -> None:
        self.path = path
        self.base = base
        self.source = source
        self._read = 0
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
    def recipe(self) -> Mapping[str, Any]:
        """Recipe by which the bundle was made."""
        return self.core.recipe

    @property
    def core_bytes(self) -> int:
        """Bytes of the data that tasks share."""
        return self.source.loaded.sizes["shared"]

    def decode_core(self) -> None:
        """Decode what tasks share, unless that was done."""
        self._bases  # noqa: B018  # kept by being asked for

    def take_core(self, other: BundleData) -> None:
        """Take what ``other`` has decoded of a core, if it is the same core."""
        mine, theirs = (
            (x.checksum("shared"), x.core.modules, x.core.tensors) for x in (self, other)
        )
        if mine == theirs and self._decoded.bases is None:
            self._decoded = other._decoded

    def checksum(self, name: str) -> str:
        """Return the checksum that a file states for a tensor's bytes; the bytes are not read."""
        return self._of(name).checksum(name)

    def read(self, name: str, contents: Contents | None = None) -> bytes:
        """Read the bytes of one tensor of the file and check them against its checksum.

        contents: contents that hold the tensor; None for those of the whole bundle.

        Raises ChecksumError; BundleFormatError if the file changed since it was opened.
        """
        data = (contents or self._of(name)).read(name)
        self._read += len(data)
        return data

    def _of(self, name: str) -> Contents:
        """Return the contents that hold the tensor; shared data are in the core."""
        return self.source.loaded if name == "shared" else self.source.whole

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
            from hydraopt.bundle.payload import unpack_blob

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

    def peft_state_dict(self, task: TaskAdapter, dtype: Any) -> dict[str, Any]:
        """See :meth:`TaskAdapter.state_dict`."""
        raise NotImplementedError

    def save_peft(self, task: TaskAdapter, folder: str | os.PathLike[str], **how: Any) -> None:
        """See :meth:`TaskAdapter.save_pretrained`."""
        raise NotImplementedError


class _Decoded(NamedTuple):
    """Decoded contents of a task's stream."""

    factors: dict[str, Factors]
    modes: dict[str, Mode]
    initial: dict[str, Drawn]
    bytes: dict[str, int]
    tensors: dict[int, DenseRecord]
    tensor_bytes: dict[int, int]


@dataclass(frozen=True, eq=False, repr=False)
class TaskAdapter:
    """A task as the bundle holds it. Nothing is read before it is asked for, and then it is kept.

    bundle: bundle that the task was read from.
    contents: manifest and tensors of the files that hold the task; its indices count in these.
    entry: entry in that manifest.
    """

    bundle: BundleData
    contents: Contents
    entry: TaskEntry

    def __repr__(self) -> str:
        modules, error = len(self.entry.modules), f"error {self.error:.4f}"
        return f"TaskAdapter({self.name!r}, {modules} modules, {error}, of {self.bundle!r})"

    def reuse(self, other: TaskAdapter) -> None:
        """Take what ``other``, a task of the same stream, has decoded."""
        if "_decoded" in other.__dict__:
            self.__dict__["_decoded"] = other._decoded

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def manifest(self) -> Manifest:
        """Manifest of the files that hold the task; that of a folder may have other tasks."""
        return self.contents.manifest

    def read(self, name: str) -> bytes:
        """Read the bytes of a tensor of :attr:`contents`; see :meth:`Bundle.read`."""
        return self.bundle.read(name, self.contents)

    @property
    def config(self) -> Mapping[str, Any]:
        """Original adapter_config.json, or the config derived from a format without one.

        The config of a coded task lacks the settings that its export writes anew.
        """
        return self.manifest.configs[self.entry.config]

    @property
    def kept_ranks(self) -> KeptRanks | None:
        """Ranks and scales of the config, if an export keeps them; None if it writes its own."""
        if not self.entry.lossless:
            return self.entry.ranks
        from hydraopt.bundle.originals import kept_ranks  # coded tasks need no formats

        return kept_ranks(self._original)

    @property
    def base_model(self) -> str | None:
        return self.entry.base_model or self.manifest.base_model

    @property
    def error(self) -> float:
        """Relative Frobenius error over all modules, as measured when the bundle was made."""
        return self.entry.error

    @property
    def module_errors(self) -> dict[str, float]:
        """Relative Frobenius error of each module, on a grid of 4.4 %."""
        paths = (self.manifest.modules[i].path for i in self.entry.modules)
        return dict(zip(paths, self.entry.errors, strict=True))

    @cached_property
    def modules(self) -> dict[str, ModuleEntry]:
        """Modules of the task by path, in manifest order."""
        entries = [self.manifest.modules[i] for i in self.entry.modules]
        if self.entry.lossless and not entries:
            entries = [ModuleEntry.of(x) for x in self._original.modules.values()]
        return {x.path: x for x in entries}

    def key(self, path: str, side: Literal["A", "B"]) -> str:
        """Return the PEFT key of A or B of a module."""
        if self.entry.lossless:
            return self._original.peft_key(path, side)
        return self.entry.keys.get((path, side)) or default_key(self.modules[path], side)

    def factors(self) -> dict[str, Factors]:
        """Return B (m, k) and A (k, n), float64, scale inside B, for each module; k may be 0.

        The arrays are shared between calls: copy them before changing them. Raises ChecksumError or
        BundleFormatError for a damaged bundle, and ExportError for a lossless task whose tensors
        are no adapter of its format.
        """
        if not self.entry.lossless:
            return self._decoded.factors
        try:
            stored = {path: x.factors() for path, x in self._original.modules.items()}
        except AdapterFormatError as error:
            raise self._no_adapter(str(error)) from error
        return {path: Factors.of(*each) for path, each in stored.items()}

    def split(self, widths: Sequence[tuple[int, int]]) -> Iterator[tuple[str, SplitRecord]]:
        """Yield (module path, record), with shared parts separate from the task's own.

        widths: (p, q) of the left and right basis of each module of the bundle, 0 where there is
        none; the bases themselves are not needed. Records are decoded one by one and not kept.
        Raises ChecksumError or BundleFormatError for a damaged bundle.
        """
        if self.entry.lossless:
            for path, factors in self.factors().items():
                yield path, SplitRecord.of(factors)
            return
        for i, reader in self._stream():
            module = self.manifest.modules[i]
            with naming(self.bundle.path):
                record = read_split_record(reader, module.m, module.n, *widths[i], self.entry.start)
            yield module.path, record

    def forms(self) -> dict[str, str]:
        """Return the form in which each module is coded; "lossless" for a lossless task."""
        if self.entry.lossless:
            return dict.fromkeys(self.modules, "lossless")
        return {path: mode.form for path, mode in self._decoded.modes.items()}

    @property
    def initial(self) -> Mapping[str, Drawn]:
        """Initial A of each module that is written over it, by path."""
        return {} if self.entry.lossless else self._decoded.initial

    def tensor_bytes(self) -> dict[str, int]:
        """Return the bytes of the task's stream for each coded tensor, to within a few, by key."""
        entries = self.manifest.tensors
        return {entries[i].key: size for i, size in self._decoded.tensor_bytes.items()}

    def coded_bytes(self) -> dict[str, int]:
        """Return the bytes of the task's stream for each module, to within a few; {} if lossless.

        Tasks of equal content share a stream, and each reports it.
        """
        return {} if self.entry.lossless else dict(self._decoded.bytes)

    @cached_property
    def carried(self) -> Mapping[str, RawTensor]:
        """Every tensor that is kept bit by bit, by key."""
        result: dict[str, RawTensor] = {}
        for blob in self.entry.carried:
            result.update(self.bundle.read_blob(blob, self.contents))
        return result

    @property
    def extras(self) -> Mapping[str, RawTensor]:
        """Tensors that are not low-rank factors, by key: those kept bit by bit, and coded ones.

        Coded ones come back with an error. Raises UsageError or BaseMismatchError where a coded one
        needs the base model.
        """
        if self.entry.lossless:
            return self._original.extras
        return {**self.carried, **self.coded_tensors()} if self.entry.tensors else self.carried

    @property
    def described(self) -> dict[str, Described]:
        """Dtype and shape of each extra, by key; none is read, unless the task is lossless."""
        if self.entry.lossless:
            return dict(self._original.extras)
        blobs, tensors = self.manifest.blobs, self.manifest.tensors
        result: dict[str, Described] = {
            item.key: item for blob in self.entry.carried for item in blobs[blob].items
        }
        return result | {tensors[i].key: tensors[i] for i in self.entry.tensors}

    @property
    def tensor_errors(self) -> dict[str, float]:
        """Relative error of each coded tensor that is no low-rank product, on a grid of 4.4 %."""
        entries = (self.manifest.tensors[i] for i in self.entry.tensors)
        return {x.key: error for x, error in zip(entries, self.entry.tensor_errors, strict=True)}

    def dense_matrices(self) -> Iterator[tuple[TensorEntry, Array, Array]]:
        """Yield (entry, matrix, reference) of each coded tensor.

        matrix: decoded values, before :func:`hydraopt.bundle.tensors.rounded_matrix`.
        reference: matrix from which the tensor is a difference; its error is relative to that
        difference.
        """
        for i, record in self._decoded.tensors.items():
            entry, common = self.manifest.tensors[i], self.bundle.common(i)
            own = self.bundle.base_tensor(i)
            reference = reference_of(entry, None, own)
            start = reference_of(entry, common, own) if record.common else reference
            yield entry, record.values(start), reference

    def coded_tensors(self) -> dict[str, RawTensor]:
        """Return the coded tensors that are not low-rank products, by key, in their own dtypes."""
        result = {}
        for i, record in self._decoded.tensors.items():
            entry, common = self.manifest.tensors[i], self.bundle.common(i)
            own = self.bundle.base_tensor(i)
            result[entry.key] = tensor_of(entry, record, common, own)
        return result

    @cached_property
    def extra_kinds(self) -> Mapping[str, ExtraKind]:
        """Kind of each extra, by key; see hydraopt.adapters.model.ExtraKind.

        No tensor is read, unless the task is lossless.
        """
        if self.entry.lossless:
            return self._original.extra_kinds
        blobs = self.manifest.blobs
        keys = (item.key for blob in self.entry.carried for item in blobs[blob].items)
        # The manifest names all kinds but the usual one.
        kinds = {key: self.entry.extra_kinds.get(key, "saved") for key in keys}
        entries = (self.manifest.tensors[i] for i in self.entry.tensors)
        return {**kinds, **{entry.key: entry.kind for entry in entries}}

    @property
    def tensors(self) -> Mapping[str, RawTensor]:
        """All original tensors of a lossless task; of any other task, those kept bit by bit."""
        return self.carried

    @property
    def original(self) -> Adapter | None:
        """Original adapter, if the task is lossless."""
        return self._original if self.entry.lossless else None

    def state_dict(self, dtype: Any = None) -> dict[str, Any]:
        """Return torch tensors by PEFT key, scale inside B, extras included.

        dtype: of the factors; a torch dtype or "float16", "bfloat16", "float32"; None is that of
        the original. Use it with a config of :meth:`save_pretrained`, whose scale is 1.
        """
        return self.bundle.peft_state_dict(self, dtype)

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        dtype: str | None = None,
        uniform_rank: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Write a PEFT adapter folder; see :func:`hydraopt.export.export_peft`."""
        how = {"dtype": dtype or "same", "uniform_rank": uniform_rank, "overwrite": overwrite}
        self.bundle.save_peft(self, folder, **how)

    @cached_property
    def _original(self) -> Adapter:
        # It knows all formats there are, and few tasks are lossless.
        from hydraopt.bundle.originals import adapter_of

        try:
            original = adapter_of(self.entry, self.config, self.carried, self.bundle.path)
        except AdapterFormatError as error:
            raise self._no_adapter(str(error)) from error
        listed = {self.manifest.modules[i] for i in self.entry.modules}
        present = {ModuleEntry.of(module) for module in original.modules.values()}
        if listed and listed != present:
            paths = sorted({module.path for module in listed ^ present})
            raise self._no_adapter(f"the manifest lists other modules: {', '.join(paths[:4])}")
        return original

    def _no_adapter(self, why: str) -> ExportError:
        return ExportError(
            explain(
                "the tensors of a lossless task cannot be read as an adapter",
                adapter=self.name,
                file=self.bundle.path,
                got=why.removesuffix("."),
                expected=f"an adapter of format {self.entry.format}",
                do="Read them from TaskAdapter.tensors; export as PEFT writes those of a PEFT "
                "adapter as they are",
            )
        )

    @cached_property
    def _decoded(self) -> _Decoded:
        result, before = _Decoded({}, {}, {}, {}, {}, {}), 0
        for i, reader in self._stream(result):
            module = self.manifest.modules[i]
            bases = self.bundle.bases(i)
            with naming(self.bundle.path):
                p, q = (0 if basis is None else basis.q for basis in bases)
                record = read_split_record(reader, module.m, module.n, p, q, self.entry.start)
            result.factors[module.path] = record.factors(*bases)
            result.modes[module.path] = record.mode
            if record.drawn is not None:
                result.initial[module.path] = record.drawn
            result.bytes[module.path] = reader.position - before
            before = reader.position
        return result

    def _stream(self, into: _Decoded | None = None) -> Iterator[tuple[int, StreamReader]]:
        """Yield the index of each module, with the reader at its record; the caller must read it.

        into: takes the records of the coded tensors, which follow the modules'.
        """
        if self.entry.content is None:
            return
        records = len(self.entry.modules) + len(self.entry.tensors)
        stream = f"task/{self.entry.content}"
        reader = self.bundle.open_stream(stream, records, self.contents)
        for i in self.entry.modules:
            yield i, reader
            with naming(self.bundle.path):
                reader.end_record()
        for i in self.entry.tensors:
            entry, start = self.manifest.tensors[i], reader.position
            with naming(self.bundle.path):
                has = self.bundle.common(i) is not None
                record = read_dense(reader, matrix_shape(entry.shape), has, entry.base is not None)
                reader.end_record()
            if into is not None:
                into.tensors[i], into.tensor_bytes[i] = record, reader.position - start
        with naming(self.bundle.path):
            reader.close()
