"""Bundle in several files: a core with the data that tasks share, and a file for each task.

A user with the core needs only one small file for each wanted task. No stream is coded again: core
and tasks together are the bundle, byte for byte. docs/reference/format.md is the normative text.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from hydraopt.bundle import strictjson
from hydraopt.bundle.bounds import check_entries, count_entries, naming
from hydraopt.bundle.container import (
    CORE,
    TASK,
    deflate,
    metadata_of,
    tensor_names,
)
from hydraopt.bundle.contents import Container, Contents
from hydraopt.bundle.items import CarriedBlob
from hydraopt.bundle.spec import Manifest, TaskEntry
from hydraopt.bundle.strictjson import check
from hydraopt.bundle.writer import PackedBundle, canonical
from hydraopt.coding.version import VERSION
from hydraopt.errors import BundleFormatError, explain
from hydraopt.files.aside import Chosen
from hydraopt.files.url import AnyPath, Url

__all__ = [
    "CoreFile",
    "OpenTask",
    "Parts",
    "another_core",
    "core_id",
    "core_of",
    "open_apart",
    "open_parts",
    "packed_core",
    "packed_task",
    "two_of_one_name",
]

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


def packed_task(
    manifest: Manifest, index: int, stream: bytes | None, blobs: Sequence[bytes], core: str
) -> PackedBundle:
    """Build the file of one task.

    index: index of the task in the manifest.
    stream, blobs: the task's own bytes.
    core: id of the core; see core_id.
    """
    task = manifest.tasks[index]
    alone = dataclasses.replace(
        manifest,
        tasks=(task.alone(),),
        blobs=tuple(manifest.blobs[i] for i in task.carried),
        configs=manifest.configs[task.config : task.config + 1],
    )
    value = {key: x for key, x in alone.to_json().items() if key in _TASK_KEYS}
    # A byte here counts as often as there are tasks, so what a reader knows is left out.
    row = value["tasks"]
    row.pop("content", None)
    base = row.pop("base_model", {"=": None})
    if base != {"=": manifest.base_model}:
        row["base_model"] = base
    other = strictjson.config_difference(manifest.configs[0], manifest.configs[task.config])
    value["configs"] = [other]
    if not other:
        del value["configs"]
    streams = [] if stream is None else [stream]
    names = _task_tensors(len(streams), len(blobs))
    about = {"format": TASK, "format_version": str(VERSION), "core": core}
    own = [_deflated(value), *streams]
    payload = Chosen((own, range(len(own))), (blobs, range(len(blobs))))
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


def another_core(file: Container, core: CoreFile) -> BundleFormatError:
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
            raise another_core(one, core)
    size = sum(x.size for x in (core.file, *files))
    entries, parts = count_entries(core.value), dict[str, OpenTask]()
    for one in files:
        part, entries = _task_part(one, core, entries, size, where)
        if only is not None and part.name not in only:
            continue
        before = parts.setdefault(part.name, part)
        if before is not part:
            raise two_of_one_name(part.name, before.file.path, one.path)
    with naming(where):
        return _combined(core, list(parts.values()), where)


def two_of_one_name(name: str, one: AnyPath, other: AnyPath) -> BundleFormatError:
    """Return the error for two files that hold one task."""
    return BundleFormatError(
        explain(
            f"two files hold the task {name!r}",
            file=other,
            got=f"{one.name} and {other.name}",
            do="Leave one of them out",
        )
    )


def _core_manifest(file: Container, value: Any) -> Manifest:
    with naming(file.path):
        check(isinstance(value, dict), "not an object", value)
        unknown = strictjson.unknown_names(value, _CORE_KEYS)
        check(not unknown, "unknown keys of a core", unknown, ", ".join(sorted(_CORE_KEYS)))
        manifest = Manifest.from_json({**value, "tasks": {"name": []}})
        check(len(manifest.configs) <= 1, "configs of a core", len(manifest.configs), "at most 1")
        file.check(list(_CORE_TENSORS), _about_core(manifest, file.version))
    return manifest


def _task_manifest(file: Container, value: Any, core: Manifest) -> Manifest:
    with naming(file.path):
        check(isinstance(value, dict), "not an object", value)
        unknown = strictjson.unknown_names(value, _TASK_KEYS)
        check(not unknown, "unknown keys of a task", unknown, ", ".join(sorted(_TASK_KEYS)))
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
    tasks: list[TaskEntry] = []
    configs: list[Mapping[str, Any]] = []
    blobs: list[tuple[bytes, CarriedBlob, _Place]] = []
    streams: list[tuple[bytes, _Place]] = []
    kept: dict[Any, int] = {}
    for part in parts:
        task = part.manifest.tasks[0]
        carried = []
        for i, blob in enumerate(part.manifest.blobs):
            token = _token(part.file, f"carried/{i}")
            number = kept.setdefault((token, blob), len(blobs))
            if number == len(blobs):
                blobs.append((token, blob, (part.file, f"carried/{i}")))
            carried.append(number)
        content = None
        if task.content is not None:
            content = len(streams)
            streams.append((_token(part.file, "task/0"), (part.file, "task/0")))
        config = len(configs)
        configs.append(part.manifest.configs[0])
        ordered = tuple(sorted(carried))
        tasks.append(dataclasses.replace(task, config=config, content=content, carried=ordered))
    loose = dataclasses.replace(
        core.manifest,
        tasks=tuple(tasks),
        configs=tuple(configs),
        blobs=tuple(x[1] for x in blobs),
    )
    # Streams stand for themselves by their tokens; each also says where its bytes are.
    at = dict([*((token, place) for token, _, place in blobs), *streams][::-1])
    made = canonical(loose, [token for token, _ in streams], [token for token, _, _ in blobs])
    made.manifest.check_canonical()
    file = core.file
    places = {"manifest": (file, "manifest"), "shared": (file, "shared")}
    places |= {f"task/{i}": at[token] for i, token in enumerate(made.streams)}
    places |= {f"carried/{i}": at[token] for i, token in enumerate(made.blobs)}
    mine = {part.name: part.file for part in parts}
    files = [file, *mine.values()]
    metadata = metadata_of(made.manifest, file.version)
    if "library" in file.metadata:
        metadata["library"] = file.metadata["library"]
    header = sum(x.header + x.sizes["manifest"] for x in files)
    size = sum(x.size for x in files)
    about = where, metadata, file.version
    return Parts(*about, made.manifest, places, size, header, core, mine)


def _token(file: Container, name: str) -> bytes:
    """Return a key for a tensor's bytes, made of their checksum and size."""
    return f"{file.checksums[name]} {file.sizes[name]}".encode()
