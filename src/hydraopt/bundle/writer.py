"""Writing a bundle: canonical order, exact size in advance, atomically."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, NamedTuple

from hydraopt.bundle import jsonform as form
from hydraopt.bundle.container import (
    FORMAT,
    VERSION,
    compress,
    header_of,
    tensor_names,
    write_atomically,
)
from hydraopt.bundle.jsonform import check
from hydraopt.bundle.spec import Manifest, TaskEntry, default_key

__all__ = ["Canonical", "bundle_size", "canonical", "checksum", "write_bundle"]

_DIGITS: Final = 16


class Canonical(NamedTuple):
    """A manifest and its payload in the one order that their content has."""

    manifest: Manifest
    streams: list[bytes]
    blobs: list[bytes]


def canonical(manifest: Manifest, streams: Sequence[bytes], blobs: Sequence[bytes]) -> Canonical:
    """The same bundle with tasks sorted by name and all else numbered by first use.

    Equal configs, and equal streams over equal modules, become one; keys that are the default are
    left out. Modules keep their order, in which the streams are coded. Raises BundleFormatError if
    a stream or blob is missing or belongs to no task.
    """
    check(len(streams) == manifest.streams, "streams", len(streams), manifest.streams)
    check(len(blobs) == len(manifest.blobs), "blobs", len(blobs), len(manifest.blobs))
    contents, configs, groups = _Numbering(), _Numbering(), _Numbering()
    defaults = {
        (module.path, side): default_key(module, side)
        for module in manifest.modules
        for side in ("A", "B")
    }
    tasks: list[TaskEntry] = []
    for task in sorted(manifest.tasks, key=lambda x: x.name):
        content = None
        if task.content is not None:
            content = contents((streams[task.content], task.modules), task.content)
        # By what they hold: the numbers that the caller gave them must not matter.
        held = [
            (form.dumps([x.key for x in manifest.blobs[i].items]), blobs[i], i)
            for i in task.carried
        ]
        for *_, blob in sorted(held):
            groups(blob, blob)
        tasks.append(
            replace(
                task,
                content=content,
                config=configs(form.dumps(manifest.configs[task.config]), task.config),
                keys={at: key for at, key in task.keys.items() if key != defaults[at]},
            )
        )
    tasks = [replace(x, carried=tuple(sorted(groups(i, i) for i in x.carried))) for x in tasks]
    check(len(groups.first) == len(blobs), "a blob belongs to no task")
    ordered = replace(
        manifest,
        tasks=tuple(tasks),
        blobs=tuple(manifest.blobs[i] for i in groups.first),
        configs=tuple(manifest.configs[i] for i in configs.first),
    )
    return Canonical(
        ordered, [streams[i] for i in contents.first], [blobs[i] for i in groups.first]
    )


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


def write_bundle(
    path: str | os.PathLike[str],
    manifest: Manifest,
    shared: bytes,
    streams: Sequence[bytes],
    blobs: Sequence[bytes],
    *,
    library: str | None = None,
) -> int:
    """Write a bundle and return its size in bytes.

    shared: the coded bases, b"" for none.  streams, blobs: what ``TaskEntry.content`` and
    ``TaskEntry.carried`` index.  library: recorded in the metadata; default this library's version.

    The order of tasks, streams, blobs and configs does not matter (see :func:`canonical`): equal
    content gives equal bytes, under one version of zstd. Atomic: a killed process leaves the old
    file or the new one. Raises BundleFormatError for a manifest that does not fit its payload,
    OSError if the file cannot be written.
    """
    return write_atomically(Path(path), _chunks(manifest, shared, streams, blobs, library))


def bundle_size(
    manifest: Manifest, shared: bytes, streams: Sequence[bytes], blobs: Sequence[bytes]
) -> int:
    """The exact size in bytes that :func:`write_bundle` would write, without writing."""
    chunks = _chunks(manifest, shared, streams, blobs, None, lambda data: "0" * _DIGITS)
    return sum(map(len, chunks))


def checksum(data: bytes) -> str:
    """First 16 hex digits of the sha256."""
    return hashlib.sha256(data).hexdigest()[:_DIGITS]


def _chunks(
    manifest: Manifest,
    shared: bytes,
    streams: Sequence[bytes],
    blobs: Sequence[bytes],
    library: str | None,
    digest: Callable[[bytes], str] = checksum,
) -> list[bytes]:
    """The pieces of the file, in order."""
    manifest, streams, blobs = canonical(manifest, streams, blobs)
    manifest.check_canonical()
    packed = compress(form.dumps(manifest.to_json()).encode())
    payload = [packed, shared, *streams, *blobs]
    metadata = metadata_of(manifest)
    metadata["library"] = library or _library()
    metadata["checksums"] = form.dumps([digest(data) for data in payload])
    names = tensor_names(len(streams), len(blobs))
    tensors = [
        (name, "U8", (len(data),), len(data)) for name, data in zip(names, payload, strict=True)
    ]
    return [header_of(tensors, metadata), *payload]


def metadata_of(manifest: Manifest) -> dict[str, str]:
    """The part of the file's metadata that follows from the manifest."""
    about = {"format": FORMAT, "format_version": str(VERSION)}
    if manifest.base_model is not None:
        about["base_model"] = manifest.base_model
    about["tasks"] = form.dumps([task.name for task in manifest.tasks])
    return about


def _library() -> str:
    try:
        return f"hydraopt {version('hydraopt')}"
    except PackageNotFoundError:
        return "hydraopt"
