"""A bundle in several files: a core with what tasks share, and a file for each task.

A user with the core needs only one small file for each wanted task. No stream is coded again: core
and tasks together are the bundle, byte for byte. docs/reference/format.md is the normative text.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from hydraopt.bundle import encoding as strictjson
from hydraopt.bundle.contents import Container, Contents
from hydraopt.bundle.encoding import CORE, TASK, check, deflate, tensor_names
from hydraopt.bundle.entries import CarriedBlob
from hydraopt.bundle.limits import check_entries, count_entries, naming
from hydraopt.bundle.manifest import Manifest, TaskEntry, TaskRow, row_of_task
from hydraopt.bundle.reader import Bundle
from hydraopt.bundle.writer import PackedBundle, canonical
from hydraopt.codec import VERSION, Chosen, sizes_of
from hydraopt.errors import BundleFormatError, LockedError, explain
from hydraopt.files import AnyPath, Url


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


_CORE_TENSORS: Final = "manifest", "shared"
_CORE_KEYS: Final = {"modules", "tensors", "configs", "recipe", "base_model"}
_TASK_KEYS: Final = {"tasks", "blobs", "configs"}
_DIGITS: Final = 16
_AT_ONCE: Final = 8
"""Number of task files opened in a store at the same time."""

_Place = tuple[Container, str]


def core_id(checksums: str) -> str:
    """Return the id by which task files refer to a core, a hash of the text of its checksums."""
    return hashlib.sha256(checksums.encode()).hexdigest()[:_DIGITS]


def _about_core(manifest: Manifest, version: int) -> dict[str, str]:
    """Return the metadata of a core file that follow from its manifest and format version."""
    base = {} if manifest.base_model is None else {"base_model": manifest.base_model}
    return {"format": CORE, "format_version": str(version), **base}


def _task_tensors(streams: int, blobs: int) -> list[str]:
    """Return the names of a task file's tensors, in file order."""
    return [name for name in tensor_names(streams, blobs) if name != "shared"]


# --- writing ------------------------------------------------------------------------------------


def packed_core(manifest: Manifest, shared: bytes) -> PackedBundle:
    """Build the core file of a bundle."""
    value = manifest.to_json()
    kept = {key: x for key, x in value.items() if key in _CORE_KEYS}
    if manifest.configs:
        kept["configs"] = value["configs"][:1]
    about = _about_core(manifest, VERSION)
    return PackedBundle(about, list(_CORE_TENSORS), [_deflated(kept), shared])


def packed_task(core: Manifest, piece: TaskPiece, core_id: str) -> PackedBundle:
    """Build the file of one task.

    core: manifest of the core; of its configs the first counts.
    core_id: id of the core; see :func:`core_id`.
    """
    first = core.configs[0] if core.configs else {}
    alone = dataclasses.replace(
        core, tasks=(piece.entry,), blobs=piece.blobs, configs=(piece.config,)
    )
    value = {key: x for key, x in alone.to_json().items() if key in _TASK_KEYS}
    # A byte here counts as often as there are tasks, so what a reader knows is left out.
    row = value["tasks"]
    row.pop("content", None)
    base = row.pop("base_model", {"=": None})
    if base != {"=": core.base_model}:
        row["base_model"] = base
    value["configs"] = [strictjson.config_difference(first, piece.config)]
    if value["configs"] == [{}]:
        del value["configs"]
    streams = [] if piece.entry.content is None else [piece.stream]
    names = _task_tensors(len(streams), len(piece.blobs))
    about = {"format": TASK, "format_version": str(VERSION), "core": core_id}
    own = [_deflated(value), *streams]
    payload = Chosen((own, range(len(own))), (piece.carried, range(len(piece.carried))))
    return PackedBundle(about, names, payload, has_library=False)


def _deflated(value: Mapping[str, Any]) -> bytes:
    return deflate(strictjson.dumps(value).encode())


# --- reading ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CoreFile:
    """Core file, read once for all the task files that belong to it.

    id: id by which task files refer to it.
    manifest: manifest without tasks.
    value: its parsed JSON.
    """

    file: Container
    id: str
    manifest: Manifest
    value: object


@dataclass(frozen=True)
class Parts(Contents):
    """Contents of a core file and task files, combined into one bundle.

    core: the core file.
    parts: task files by task; two files may have the same contents.
    """

    core: CoreFile
    parts: Mapping[str, Container]

    @cached_property
    def files(self) -> list[Container]:
        placed = (file for file, _ in self.places.values())
        return list(dict.fromkeys((*placed, *self.parts.values())))


@dataclass(frozen=True)
class OpenTask:
    """Open task file.

    manifest: the core's, with this one task, its blobs and its config.
    """

    file: Container
    manifest: Manifest

    @property
    def name(self) -> str:
        return self.manifest.tasks[0].name


def core_of(file: Container) -> CoreFile:
    """Read a core file. Raises BundleFormatError if it is not one or is damaged."""
    value = file.manifest()
    return CoreFile(file, core_id(file.metadata["checksums"]), _core_manifest(file, value), value)


def open_parts(
    core: CoreFile, tasks: Sequence[AnyPath]
) -> Iterator[OpenTask | BundleFormatError | None]:
    """Yield the task files in order, each opened by itself.

    A file that is damaged or no task file yields its error instead, and a file of another core
    yields None.
    """
    for file in _files_of(tasks):
        if isinstance(file, BundleFormatError):
            yield file
        elif file.metadata.get("core") != core.id:
            yield None
        else:
            try:
                size = core.file.size + file.size
                yield _task_part(file, core, count_entries(core.value), size, file.path)[0]
            except BundleFormatError as error:
                yield error


def _files_of(tasks: Sequence[AnyPath]) -> Iterator[Container | BundleFormatError]:
    """Yield the task files in order, or the error of a file that cannot be opened.

    Files at addresses are opened several at a time, because each waits for an answer.
    """

    def opened(path: AnyPath) -> Container | BundleFormatError:
        try:
            return Container(path, (TASK,), hold=False)
        except BundleFormatError as error:
            return error

    if not any(isinstance(path, Url) for path in tasks):
        yield from map(opened, tasks)
        return
    # Loads logging, which reading one task has no use for.
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield from pool.map(opened, tasks)


def _task_part(
    file: Container, core: CoreFile, entries: int, size: int, where: AnyPath
) -> tuple[OpenTask, int]:
    """Return an open task file, and ``entries`` plus the entries of its manifest.

    size: total bytes of all files.
    """
    value = file.manifest()
    # Together: a task of a few bytes may have all modules of the core.
    entries += count_entries(value, core.value)
    with naming(where):
        check_entries(entries, size)
    return OpenTask(file, _task_manifest(file, value, core.manifest)), entries


def _another_core(file: Container, core: CoreFile) -> BundleFormatError:
    """Return the error for a task file that belongs to another core."""
    return BundleFormatError(
        explain(
            "a task file belongs to another core",
            file=file.path,
            got=f"core {str(file.metadata.get('core'))[:_DIGITS]}",
            expected=f"{core.id} ({core.file.path.name})",
            do="Give the core that it was split from, or leave it out",
        )
    )


def open_apart(
    core: CoreFile,
    tasks: Iterable[AnyPath],
    where: AnyPath,
    strict: bool = True,
    only: Collection[str] | None = None,
) -> Parts:
    """Open a bundle of a core file and task files.

    where: name for all of them in errors.
    strict: refuse tasks of another core; otherwise leave them out.
    only: names of the tasks to open; None for all.

    Raises BundleFormatError, naming the files, for two tasks of one name, for damage, and for a
    file that is neither core nor task.
    """
    files = []
    for one in _files_of(list(tasks)):
        if isinstance(one, BundleFormatError):
            raise one
        if one.metadata.get("core") == core.id:
            files.append(one)
        elif strict:
            raise _another_core(one, core)
    size = sum(x.size for x in (core.file, *files))
    entries, parts = count_entries(core.value), dict[str, OpenTask]()
    for one in files:
        part, entries = _task_part(one, core, entries, size, where)
        if only is not None and part.name not in only:
            continue
        before = parts.setdefault(part.name, part)
        if before is not part:
            raise BundleFormatError(
                explain(
                    f"two files hold the task {part.name!r}",
                    file=one.path,
                    got=f"{before.file.path.name} and {one.path.name}",
                    do="Leave one of them out",
                )
            )
    with naming(where):
        return _combined(core, list(parts.values()), where)


def _core_manifest(file: Container, value: Any) -> Manifest:
    with naming(file.path):
        strictjson.check_keys(value, _CORE_KEYS, "a core")
        manifest = Manifest.from_json({**value, "tasks": {"name": []}})
        check(len(manifest.configs) <= 1, "configs of a core", len(manifest.configs), "at most 1")
        file.check(list(_CORE_TENSORS), _about_core(manifest, file.version))
    return manifest


def _task_manifest(file: Container, value: Any, core: Manifest) -> Manifest:
    with naming(file.path):
        strictjson.check_keys(value, _TASK_KEYS, "a task")
        first = core.configs[0] if core.configs else {}
        differences = value.get("configs", [{}])
        one = isinstance(differences, list) and len(differences) == 1
        check(one, "configs of a task", differences, "one")
        config = strictjson.config_from_difference(first, differences[0])
        row = value.get("tasks")
        if isinstance(row, dict):
            content = 0 if "task/0" in file.sizes else None
            known = {"base_model": {"=": core.base_model}, "content": {"=": content}}
            value = {**value, "tasks": {**known, **row}}
        manifest = Manifest.of_task(value, core, config)
        check(len(manifest.tasks) == 1, "tasks of a task file", len(manifest.tasks), "one")
        manifest.check_canonical()
        names = _task_tensors(manifest.streams, len(manifest.blobs))
        about = {"format": TASK, "format_version": str(file.version)}
        file.check(names, {**about, "core": file.metadata["core"]})
    return manifest


def _combined(core: CoreFile, parts: Sequence[OpenTask], where: AnyPath) -> Parts:
    """Combine core and tasks into the canonical bundle; equal streams, blobs and configs merge.

    Bytes are compared by size and checksum, without being read.
    """
    places: dict[bytes, _Place] = {}
    pieces = []
    for part in parts:
        # Bytes stand for themselves by their tokens; each also says where its bytes are.
        tokens = {name: _token(part.file, name) for name in part.file.sizes}
        for name, token in tokens.items():
            places.setdefault(token, (part.file, name))
        manifest = part.manifest
        carried = [tokens[f"carried/{i}"] for i in range(len(manifest.blobs))]
        stream = tokens.get("task/0", b"")
        pieces.append(
            TaskPiece(manifest.tasks[0], manifest.configs[0], stream, manifest.blobs, carried)
        )
    made = canonical(*packed_parts(core.manifest, pieces))
    made.manifest.check_canonical()
    file = core.file
    found = {"manifest": (file, "manifest"), "shared": (file, "shared")}
    found |= {f"task/{i}": places[token] for i, token in enumerate(made.streams)}
    found |= {f"carried/{i}": places[token] for i, token in enumerate(made.blobs)}
    mine = {part.name: part.file for part in parts}
    files = [file, *mine.values()]
    metadata = made.manifest.metadata(file.version)
    if "library" in file.metadata:
        metadata["library"] = file.metadata["library"]
    header = sum(x.header + x.sizes["manifest"] for x in files)
    size = sum(x.size for x in files)
    about = where, metadata, file.version
    return Parts(*about, made.manifest, found, size, header, core, mine)


def _token(file: Container, name: str) -> bytes:
    """Return a key for a tensor's bytes, made of their checksum and size."""
    return f"{file.checksums[name]} {file.sizes[name]}".encode()
