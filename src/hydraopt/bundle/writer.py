"""Writing a bundle: canonical order, exact size in advance, atomically."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, Final, NamedTuple

from hydraopt.bundle import encoding as strictjson
from hydraopt.bundle.encoding import check, deflate, header_of, tensor_names
from hydraopt.bundle.entries import default_key
from hydraopt.bundle.limits import check_blobs, check_manifest, check_text
from hydraopt.bundle.manifest import Manifest, TaskEntry
from hydraopt.bundle.tensors import checksum
from hydraopt.codec import VERSION, Chosen, sizes_of
from hydraopt.files import is_url, remote_cache, write_atomically

_DIGITS: Final = 16


class Canonical(NamedTuple):
    """A manifest and its payload in the one order that their content has."""

    manifest: Manifest
    streams: Sequence[bytes]
    blobs: Sequence[bytes]


def canonical(manifest: Manifest, streams: Sequence[bytes], blobs: Sequence[bytes]) -> Canonical:
    """Return the bundle with tasks sorted by name and everything else numbered by first use.

    Equal configs, and equal streams over equal modules and starts, become one; keys that are the
    default are left out. Modules and tensors keep their order, in which the streams are coded.

    Raises BundleFormatError if a stream or blob is missing or belongs to no task.
    """
    check(len(streams) == manifest.streams, "streams", len(streams), manifest.streams)
    check(len(blobs) == len(manifest.blobs), "blobs", len(blobs), len(manifest.blobs))
    contents, configs, groups = _Numbering(), _Numbering(), _Numbering()
    defaults = {
        (module.path, half): default_key(module, half)
        for module in manifest.modules
        for half in ("A", "B")
    }
    keys = [strictjson.dumps([x.key for x in blob.items]) for blob in manifest.blobs]
    tasks: list[TaskEntry] = []
    for task in sorted(manifest.tasks, key=lambda x: x.name):
        content = None
        if task.content is not None:
            # A digest: no stream is held for longer than it is looked at.
            digest = hashlib.sha256(streams[task.content]).digest()
            same = digest, task.modules, task.tensors, task.start
            content = contents(same, task.content)
        # By their keys, which no task has twice: the numbers that the caller gave them must not
        # matter.
        carried = [groups(blob, blob) for blob in sorted(task.carried, key=keys.__getitem__)]
        tasks.append(
            replace(
                task,
                content=content,
                carried=tuple(sorted(carried)),
                config=configs(strictjson.dumps(manifest.configs[task.config]), task.config),
                keys={at: key for at, key in task.keys.items() if key != defaults[at]},
            )
        )
    check(len(groups.first) == len(blobs), "a blob belongs to no task")
    ordered = replace(
        manifest,
        tasks=tuple(tasks),
        blobs=tuple(manifest.blobs[i] for i in groups.first),
        configs=tuple(manifest.configs[i] for i in configs.first),
    )
    chosen = (Chosen(x) for x in ((streams, contents.first), (blobs, groups.first)))
    return Canonical(ordered, *chosen)


class _Numbering:
    """Numbers things by first use; ``first`` holds the old index behind each new one."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self.first: list[int] = []

    def __call__(self, thing: Any, old: int) -> int:
        number = self._numbers.setdefault(thing, len(self.first))
        if number == len(self.first):
            self.first.append(old)
        return number


@dataclass(frozen=True)
class PackedBundle:
    """A bundle ready to be written.

    metadata: that follows from the manifest. names, payload: the file's tensors, in file order; of
    a merge they are read from where they lie, whenever they are asked for.
    has_library: whether the header says who wrote it.
    """

    metadata: Mapping[str, str]
    names: Sequence[str]
    payload: Sequence[bytes]
    has_library: bool = True

    @property
    def size(self) -> int:
        """Exact bytes of the file, known without hashing or writing anything."""
        head = self._head(_library(), ["0" * _DIGITS] * len(self.payload))
        return len(head) + sum(sizes_of(self.payload))

    def write(self, path: str | os.PathLike[str], library: str | None = None) -> int:
        """Write the file and return its size in bytes.

        library: recorded in the metadata; default this library's version. Atomic: a killed process
        leaves the old file or the new one. Raises OSError if the file cannot be written.
        """
        size = write_atomically(path, self.pieces(library))
        if is_url(path):
            # Whoever wrote them will read them back, to say what was made.
            cache = remote_cache()
            for digest, data in zip(self.checksums, self.payload, strict=True):
                cache.put(digest, data)
        return size

    def pieces(self, library: str | None = None) -> Iterator[bytes]:
        """Yield the bytes of the file: its header, and each tensor."""
        yield self._head(library or _library(), self.checksums)
        yield from self.payload

    @property
    def checksums_text(self) -> str:
        """All checksums, as the text in the header."""
        return strictjson.dumps(self.checksums)

    @cached_property
    def checksums(self) -> list[str]:
        """Return the checksum of each tensor, as the header states them."""
        return [checksum(data) for data in self.payload]

    def _head(self, library: str, digests: Sequence[str]) -> bytes:
        tensors = [
            (name, "U8", (size,), size)
            for name, size in zip(self.names, sizes_of(self.payload), strict=True)
        ]
        about = dict(self.metadata)
        if self.has_library:
            about["library"] = library
        return header_of(tensors, {**about, "checksums": strictjson.dumps(digests)})


def pack_bundle(
    manifest: Manifest, shared: bytes, streams: Sequence[bytes], blobs: Sequence[bytes]
) -> PackedBundle:
    """Prepare a bundle for writing, in canonical order.

    shared: the coded bases, b"" for none.
    streams, blobs: bytes indexed by ``TaskEntry.content`` and ``TaskEntry.carried``.

    The order of tasks, streams, blobs and configs does not matter (see :func:`canonical`): equal
    content gives equal bytes, under one version of zlib. Raises BundleFormatError for a manifest
    that does not fit its payload.
    """
    manifest, streams, blobs = canonical(manifest, streams, blobs)
    manifest.check_canonical()
    value = manifest.to_json()
    text = strictjson.dumps(value).encode()
    packed = deflate(text)
    check_text(len(text), len(packed))
    carried = sum(sizes_of(blobs))
    check_manifest(value, len(packed) + len(shared) + sum(sizes_of(streams)) + carried)
    check_blobs(manifest.blobs, carried)
    names = tensor_names(len(streams), len(blobs))
    payload = Chosen(*((x, range(len(x))) for x in ((packed, shared), streams, blobs)))
    return PackedBundle(manifest.metadata(VERSION), names, payload)


@cache
def _library() -> str:
    from importlib.metadata import PackageNotFoundError, version  # who reads needs no writer

    try:
        return f"hydraopt {version('hydraopt')}"
    except PackageNotFoundError:
        return "hydraopt"
