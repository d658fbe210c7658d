"""Open one bundle file, and check its header and the bytes of every tensor."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn, Protocol

from hydraopt.adapters import FileSpan, HeldSpan, TensorFile, can_be_safetensors, open_safetensors
from hydraopt.bundle import encoding as strictjson
from hydraopt.bundle.encoding import FORMAT, inflate, tensor_names
from hydraopt.bundle.limits import (
    AGAIN,
    Allowance,
    check_blobs,
    check_manifest,
    check_starts,
    most_text,
    naming,
)
from hydraopt.bundle.manifest import Manifest, TaskEntry, TaskRow, row_of_task
from hydraopt.bundle.tensors import checksum
from hydraopt.codec import VERSION as NEWEST
from hydraopt.errors import (
    AdapterFormatError,
    BundleFormatError,
    ChecksumError,
    RemoteError,
    UnsupportedVersionError,
    explain,
)
from hydraopt.files import AnyPath, Ranges, RemoteFile, Url, held_at

if TYPE_CHECKING:
    from hydraopt.files import Cache


class Container:
    """One safetensors file of ours.

    Raises BundleFormatError unless its header is in order, and RemoteError for an address that
    cannot be read.

    formats: what it may say that it is.  hold: keep the file open, so that one that is replaced
    goes on being what it was; an address always does.  metadata, version: the header's.  header:
    its bytes.
    """

    def __init__(
        self, path: AnyPath, formats: tuple[str, ...] = (FORMAT,), hold: bool = True
    ) -> None:
        self.path = path
        remote = isinstance(path, Url)
        self._cache: Cache | None = None
        if remote:
            from hydraopt.files import remote_cache

            self._cache = remote_cache()
        try:
            held = held_at(path, can_be_safetensors(path))
            self.size = held.size
            self._held: Ranges | None = held if hold or remote else None
            self._file: TensorFile = open_safetensors(path, self.size, self._held)
        except RemoteError:
            raise
        except OSError as error:
            refuse_file("bundle cannot be read", path, error)
        except AdapterFormatError as error:
            raise BundleFormatError(error.within("not a bundle, or damaged: ")) from error
        self.metadata = self._file.metadata
        if self.format not in formats:
            what, do = "a safetensors file, but not a bundle", "Merge adapters first"
            refuse_file(what, path, self.metadata.get("format"), " or ".join(formats), do)
        self.version = self._format_version()
        with naming(path):
            self.checksums = self._read_checksums()
        self.header = self.size - sum(self.sizes.values())

    @property
    def format(self) -> str | None:
        """Value of ``format`` in the header; None if there is none."""
        return self.metadata.get("format")

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of each tensor, in file order."""
        return {name: tensor.nbytes for name, tensor in self._file.items()}

    def read(self, name: str) -> bytes:
        """Read the bytes of one tensor and check them against its checksum.

        Bytes read from an address are cached by their checksum and taken from the cache the next
        time.

        Raises ChecksumError; BundleFormatError if the file changed since it was opened.
        """
        expected = self.checksums[name]
        kept = self._kept(name)
        if kept is not None:
            return kept
        try:
            data = self._file[name].raw()
        except AdapterFormatError as error:
            raise BundleFormatError(error.within()) from error
        actual = checksum(data)
        if actual != expected:
            raise ChecksumError(
                explain(
                    f"bytes of {name!r} are not those that were written",
                    file=self.path,
                    got=f"checksum {actual}",
                    expected=expected,
                    do=AGAIN,
                )
            )
        if self._cache is not None:
            self._cache.put(expected, data)
        return data

    def _kept(self, name: str) -> bytes | None:
        """Return the bytes of a tensor if the cache has them undamaged."""
        if self._cache is None:
            return None
        size, expected = self.sizes[name], self.checksums[name]
        data = self._cache.get(expected, size)
        if data is not None and checksum(data) != expected:
            self._cache.drop(expected, size)
            return None
        return data

    @property
    def fetched(self) -> int:
        """Bytes that came from a store so far; 0 for a file on this machine."""
        return self._held.fetched if isinstance(self._held, RemoteFile) else 0

    def is_current(self) -> bool:
        """Return True if the same file is still there; False if it is unknown.

        It is unknown for a file that is not kept open.
        """
        return self._held is not None and self._held.is_current()

    def content(self) -> Iterator[bytes]:
        """Yield the file's bytes in pieces, each but the header checked against its checksum."""
        held = self._held if self._held is not None else held_at(self.path)
        yield held.read(0, self.header)
        for name in self._file:
            yield self.read(name)

    def manifest(self, most: int | None = None) -> object:
        """Parse the JSON of the manifest; check only its size and its number of entries.

        most: maximum bytes of the JSON, if lower than the limit for its size.
        """
        packed = self.read("manifest")
        with naming(self.path):
            allowed = most_text(len(packed))
            most = allowed if most is None else min(most, allowed)
            value = strictjson.loads(inflate(packed, None, most, "the manifest"))
            check_manifest(value, self.size)
        return value

    def check(self, names: list[str], about: Mapping[str, str]) -> None:
        """Refuse a file with other tensors than ``names``, in this order, or with other metadata.

        The metadata must be what follows from the manifest.
        """
        if list(self._file) != names:
            odd = sorted(set(names) ^ set(self._file))[:8]
            refuse_file(
                "tensors are not those of the manifest", self.path, odd, f"{len(names)} tensors"
            )
        spans = (x.read for x in self._file.values())
        starts = [x.start for x in spans if isinstance(x, FileSpan | HeldSpan)]
        if starts != sorted(starts):
            refuse_file("tensors lie in another order than the header names them", self.path)
        for name, tensor in self._file.items():
            if tensor.dtype != "U8" or len(tensor.shape) != 1:
                refuse_file(f"tensor {name!r} is not a row of bytes", self.path, tensor.dtype, "U8")
        for key, value in about.items():
            if self.metadata.get(key) != value:
                got = repr(self.metadata.get(key))[:80]
                what = f"metadata {key!r} contradicts the manifest"
                refuse_file(what, self.path, got, value[:80])
        unknown = strictjson.unknown_names(self.metadata, {*about, "library", "checksums"})
        if unknown:
            refuse_file("metadata has unknown keys", self.path, ", ".join(unknown)[:80])

    def _format_version(self) -> int:
        """Return the format version that the header states; raise if it cannot be read."""
        text = self.metadata.get("format_version", "")
        if not (text.isascii() and text.isdecimal()) or len(text) > 9 or int(text) < 1:
            refuse_file("format version makes no sense", self.path, repr(text)[:40], NEWEST)
        if int(text) != NEWEST:
            newer = int(text) > NEWEST
            raise UnsupportedVersionError(
                explain(
                    f"bundle was written in {'a newer' if newer else 'an unreleased'} format",
                    file=self.path,
                    got=f"format version {text}",
                    expected=f"format version {NEWEST}",
                    do="Install a newer hydraopt: pip install --upgrade hydraopt"
                    if newer
                    else "Merge the adapters again",
                )
            )
        return int(text)

    def _read_checksums(self) -> dict[str, str]:
        text = self.metadata.get("checksums", "null").encode("utf-8", "replace")
        checksums = strictjson.loads(text)
        names = list(self._file)
        right = isinstance(checksums, list) and all(isinstance(x, str) for x in checksums)
        if not right or len(checksums) != len(names) or "manifest" not in self._file:
            got = repr(checksums)[:80]
            refuse_file("checksums do not fit the tensors", self.path, got, f"{len(names)}")
        return dict(zip(names, checksums, strict=True))


class TaskSource(Protocol):
    """Supplier of the manifest and the stored bytes of a bundle, in one file or in several."""

    @property
    def names(self) -> Collection[str]:
        """Names of all tasks, sorted; membership tests take constant time."""

    @property
    def rows(self) -> list[TaskRow]:
        """Row of each task, available before its file is read."""

    @property
    def is_whole(self) -> bool:
        """True if the whole manifest is loaded, or :attr:`rows` would have to load it."""

    @property
    def size(self) -> int:
        """Total bytes of all files; an index does not count."""

    @property
    def header(self) -> int:
        """Bytes read so far to find and open the files."""

    @property
    def loaded(self) -> Contents:
        """Contents read so far: the shared data, and maybe tasks."""

    @property
    def whole(self) -> Contents:
        """Contents of all files, which are read if they have not been."""

    def part(self, task: str) -> Contents:
        """Return the contents that hold a task, if any do."""


@dataclass(frozen=True)
class Contents:
    """Manifest of a bundle, and where its tensors are stored.

    Implements :class:`TaskSource` for a bundle whose manifest is complete.

    path: the file or the folder, or an address of either.
    version: format version.
    manifest: the manifest, in canonical form.
    places: for each tensor of the bundle, in order, the file that contains it and its name there.
    size: total bytes of all files.
    header: bytes that were read to learn all this.
    """

    path: AnyPath
    metadata: Mapping[str, str]
    version: int
    manifest: Manifest
    places: Mapping[str, tuple[Container, str]]
    size: int
    header: int

    def __post_init__(self) -> None:
        with naming(self.path):
            check_blobs(self.manifest.blobs, self._bytes_of("carried/"))
            starts = {x.content: x.start for x in self.manifest.tasks if x.start is not None}
            check_starts(starts.values(), self._coded)

    @property
    def whole(self) -> Contents:
        return self

    @property
    def loaded(self) -> Contents:
        return self

    @property
    def is_whole(self) -> bool:
        return True

    @property
    def rows(self) -> list[TaskRow]:
        return [
            row_of_task(
                task,
                self.manifest.configs[task.config],
                0 if task.content is None else self.sizes[f"task/{task.content}"],
                sum(self.sizes[f"carried/{i}"] for i in task.carried),
            )
            for task in self.manifest.tasks
        ]

    def part(self, task: str) -> Contents:
        return self

    @cached_property
    def tasks(self) -> dict[str, TaskEntry]:
        """Entries of all tasks by name, sorted."""
        return {task.name: task for task in self.manifest.tasks}

    @property
    def names(self) -> Collection[str]:
        return self.tasks.keys()

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of each tensor."""
        return {name: file.sizes[own] for name, (file, own) in self.places.items()}

    @cached_property
    def files(self) -> list[Container]:
        """All files, the core first."""
        return list(dict.fromkeys(file for file, _ in self.places.values()))

    def checksum(self, name: str) -> str:
        """Return the checksum of a tensor's bytes, as its file states it."""
        file, own = self.places[name]
        return file.checksums[own]

    def read(self, name: str) -> bytes:
        """Read the bytes of one tensor; see :meth:`Container.read`."""
        file, own = self.places[name]
        return file.read(own)

    @cached_property
    def allowance(self) -> Allowance:
        """Limit on the numbers that the streams may decode to."""
        return Allowance(self._coded)

    @property
    def _coded(self) -> int:
        return self.sizes["shared"] + self._bytes_of("task/")

    def _bytes_of(self, start: str) -> int:
        return sum(size for name, size in self.sizes.items() if name.startswith(start))


def open_file(file: Container) -> Contents:
    """Open a bundle in one file."""
    path = file.path
    value = file.manifest()
    with naming(path):
        manifest = Manifest.from_json(value)
        manifest.check_canonical()
        names = tensor_names(manifest.streams, len(manifest.blobs))
        file.check(names, manifest.metadata(file.version))
    places = {name: (file, name) for name in names}
    header = file.header + file.sizes["manifest"]
    about = path, file.metadata, file.version
    return Contents(*about, manifest, places, file.size, header)


def refuse_file(
    what: str, file: AnyPath, got: object = None, expected: object = None, do: str = AGAIN
) -> NoReturn:
    """Raise BundleFormatError about a file; got may be why the system does not give it."""
    if isinstance(got, FileNotFoundError | NotADirectoryError):
        what, got, do = "no such file or folder", None, "Check the path"
    elif isinstance(got, PermissionError):
        got, do = got.strerror, "Change its permissions, or choose another"
    raise BundleFormatError(explain(what, file=file, got=got, expected=expected, do=do))
