"""Single task on its way into a collection or out of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydraopt.bundle.contents import Container
from hydraopt.bundle.items import CarriedBlob
from hydraopt.bundle.reader import Bundle
from hydraopt.bundle.row import TaskRow, row_of_task
from hydraopt.bundle.spec import Manifest, TaskEntry
from hydraopt.errors import LockedError, explain
from hydraopt.files.aside import sizes_of
from hydraopt.files.url import AnyPath

__all__ = [
    "TaskPiece", "check_current", "held_in", "packed_parts",
]  # fmt: skip


@dataclass(frozen=True)
class TaskPiece:
    """Entry and bytes of one task, independent of other tasks.

    entry: modules and tensors are indices into the core's; ``content`` is 0 or None, ``config`` is
        0, and ``carried`` are indices into ``blobs``.
    stream: coded bytes; b"" if nothing is coded.
    blobs: tables of the tensors that are kept bit by bit.
    carried: packed bytes of each of ``blobs``.
    """

    entry: TaskEntry
    config: Mapping[str, Any]
    stream: bytes
    blobs: tuple[CarriedBlob, ...]
    carried: Sequence[bytes]

    @property
    def row(self) -> TaskRow:
        """Row of the task in a listing."""
        return row_of_task(self.entry, self.config, len(self.stream), sum(sizes_of(self.carried)))

    def renamed(self, name: str) -> TaskPiece:
        """Return the task under another name."""
        return dataclasses.replace(self, entry=dataclasses.replace(self.entry, name=name))


def held_in(bundle: Bundle, name: str, read: Callable[[str], bytes] | None = None) -> TaskPiece:
    """Return a task as a bundle holds it, not decoded. Raises TaskNotFoundError, ChecksumError.

    read: reads a tensor of the file by name; default the task's own reader.
    """
    task = bundle[name]
    entry, manifest = task.entry, task.manifest
    read = read or task.read
    stream = b"" if entry.content is None else read(f"task/{entry.content}")
    return TaskPiece(
        entry.alone(),
        task.config,
        stream,
        tuple(manifest.blobs[i] for i in entry.carried),
        tuple(read(f"carried/{i}") for i in entry.carried),
    )


def check_current(file: Container, path: AnyPath) -> None:
    """Raise LockedError if the file was replaced since a change of it began.

    This detects writers that take no lock, such as cp.

    path: path of the collection, for the message.
    """
    if not file.is_current():
        raise LockedError(
            explain(
                "the collection is another one since the change began",
                file=path,
                do="Nothing was written; look at it, and try again",
            )
        )


def packed_parts(
    core: Manifest, pieces: Sequence[TaskPiece]
) -> tuple[Manifest, list[bytes], list[bytes]]:
    """Return a manifest, streams and blobs of these tasks over the tables of a core.

    Equal blobs become one; equal streams and configs do so when the bundle is packed. core: its
    tasks, blobs and configs do not count.
    """
    streams: list[bytes] = []
    blobs: dict[tuple[bytes, CarriedBlob], int] = {}
    tasks = []
    for config, piece in enumerate(pieces):
        content = None
        if piece.entry.content is not None:
            content = len(streams)
            streams.append(piece.stream)
        held = zip(piece.carried, piece.blobs, strict=True)
        carried = tuple(sorted(blobs.setdefault(blob, len(blobs)) for blob in held))
        tasks.append(
            dataclasses.replace(piece.entry, content=content, config=config, carried=carried)
        )
    manifest = dataclasses.replace(
        core,
        tasks=tuple(tasks),
        blobs=tuple(blob for _, blob in blobs),
        configs=tuple(piece.config for piece in pieces),
    )
    return manifest, streams, [data for data, _ in blobs]
