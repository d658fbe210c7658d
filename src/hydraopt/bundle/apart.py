"""A bundle in several files: what its tasks share, the core, and each task in a file of its own.

Who has the core needs one small file for each task that is wanted. No stream is coded again: core
and tasks together are the bundle, byte for byte. docs/reference/format.md is the normative text.
"""

from __future__ import annotations

import dataclasses
import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hydraopt.bundle import strictjson
from hydraopt.bundle.bounds import check_entries, count_entries, naming
from hydraopt.bundle.container import (
    CORE,
    CORE_SUFFIX,
    TASK,
    TASK_SUFFIX,
    deflate,
    tensor_names,
)
from hydraopt.bundle.items import CarriedBlob
from hydraopt.bundle.opening import Container, Opened, refuse_file
from hydraopt.bundle.spec import Manifest, TaskEntry
from hydraopt.bundle.strictjson import check
from hydraopt.bundle.writer import PackedBundle, canonical, metadata_of
from hydraopt.coding.version import VERSION
from hydraopt.errors import BundleFormatError, explain

__all__ = [
    "core_id",
    "folded",
    "only_core",
    "open_apart",
    "packed_core",
    "packed_task",
    "parts_beside",
]

_CORE_TENSORS: Final = "manifest", "shared"
_CORE_KEYS: Final = {"modules", "tensors", "configs", "recipe", "base_model"}
_TASK_KEYS: Final = {"tasks", "blobs", "configs"}
_DIGITS: Final = 16

_Place = tuple[Container, str]


def core_id(checksums: str) -> str:
    """What task files call the core by: from the text of its checksums."""
    return hashlib.sha256(checksums.encode()).hexdigest()[:_DIGITS]


def _about_core(manifest: Manifest, version: int) -> dict[str, str]:
    """What of a core file's metadata follows from its manifest."""
    base = {} if manifest.base_model is None else {"base_model": manifest.base_model}
    return {"format": CORE, "format_version": str(version), **base}


def _task_tensors(streams: int, blobs: int) -> list[str]:
    """Names of a task file's tensors, in file order."""
    return [name for name in tensor_names(streams, blobs) if name != "shared"]


# --- writing ------------------------------------------------------------------------------------


def packed_core(manifest: Manifest, shared: bytes) -> PackedBundle:
    """The core file of a bundle."""
    value = manifest.to_json()
    kept = {key: x for key, x in value.items() if key in _CORE_KEYS}
    if manifest.configs:
        kept["configs"] = value["configs"][:1]
    about = _about_core(manifest, VERSION)
    return PackedBundle(about, list(_CORE_TENSORS), [_deflated(kept), shared])


def packed_task(
    manifest: Manifest, index: int, stream: bytes | None, blobs: Sequence[bytes], core: str
) -> PackedBundle:
    """The file of the task of that index. stream, blobs: its own bytes. core: see core_id."""
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
    return PackedBundle(about, names, [_deflated(value), *streams, *blobs], has_library=False)


def _deflated(value: Mapping[str, Any]) -> bytes:
    return deflate(strictjson.dumps(value).encode())


# --- reading ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """A task file. manifest: the core's, with this one task, its blobs and its config."""

    file: Container
    manifest: Manifest

    @property
    def name(self) -> str:
        return self.manifest.tasks[0].name


def parts_beside(path: Path) -> tuple[Path, list[Path]]:
    """The core file and the task files of a folder, or those beside a core file.

    Raises BundleFormatError for a folder that has no core file, or several.
    """
    folder = path if path.is_dir() else path.parent
    try:
        names = sorted(folder.iterdir())
    except OSError as error:
        refuse_file("bundle cannot be read", path, error)
    tasks = [x for x in names if x.name.endswith(TASK_SUFFIX)]
    if path != folder:
        return path, tasks
    return only_core([x for x in names if x.name.endswith(CORE_SUFFIX)], folder), tasks


def only_core(cores: Sequence[Path], where: Path) -> Path:
    """The one core file; raises BundleFormatError, which says where, for none and several."""
    if len(cores) != 1:
        raise BundleFormatError(
            explain(
                "a bundle in several files has one core"
                if cores
                else "bundle cannot be read: a folder without a core file",
                file=where,
                got=", ".join(x.name for x in cores[:8]) or None,
                expected=f"one file NAME{CORE_SUFFIX}",
                do="Give the core that the tasks were split from, and no other",
            )
        )
    return cores[0]


def open_apart(file: Container, tasks: Iterable[Path], where: Path, strict: bool = True) -> Opened:
    """The bundle of a core file and task files.

    file: the core.  where: what errors call all of them. strict: tasks of another core are refused,
    else they are left out. Raises BundleFormatError, naming the files, for tasks of one name, for
    what is damaged and for what is no core or task.
    """
    name = core_id(file.metadata["checksums"])
    files = []
    for path in tasks:
        one = Container(path, (TASK,), hold=False)
        if one.metadata.get("core") == name:
            files.append(one)
        elif strict:
            raise BundleFormatError(
                explain(
                    "a task file belongs to another core",
                    file=path,
                    got=f"core {str(one.metadata.get('core'))[:_DIGITS]}",
                    expected=f"{name} ({file.path.name})",
                    do="Give the core that it was split from, or leave it out",
                )
            )
    size = sum(x.size for x in (file, *files))
    value = file.manifest()
    own, entries = _core_manifest(file, value), count_entries(value)
    parts: dict[str, _Part] = {}
    for one in files:
        mine = one.manifest()
        # Together: a task of a few bytes may have all modules of the core.
        entries += count_entries(mine, value)
        with naming(where):
            check_entries(entries, size)
        part = _Part(one, _task_manifest(one, mine, own))
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
        return _combined(file, own, list(parts.values()), where)


def folded(name: str) -> str:
    """Equal for names that some file system takes for one: case, and how accents are written."""
    return unicodedata.normalize("NFC", name).casefold()


def _core_manifest(file: Container, value: Any) -> Manifest:
    with naming(file.path):
        check(isinstance(value, dict), "not an object", value)
        unknown = sorted(set(value) - _CORE_KEYS)
        check(not unknown, "unknown keys of a core", unknown, ", ".join(sorted(_CORE_KEYS)))
        manifest = Manifest.from_json({**value, "tasks": {"name": []}})
        check(len(manifest.configs) <= 1, "configs of a core", len(manifest.configs), "at most 1")
        file.check(list(_CORE_TENSORS), _about_core(manifest, file.version))
    return manifest


def _task_manifest(file: Container, value: Any, core: Manifest) -> Manifest:
    with naming(file.path):
        check(isinstance(value, dict), "not an object", value)
        unknown = sorted(set(value) - _TASK_KEYS)
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


def _combined(core: Container, own: Manifest, parts: Sequence[_Part], where: Path) -> Opened:
    """The canonical bundle, in which equal streams, blobs and configs of several files are one.

    Bytes are told apart by size and checksum, without being read.
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
        own, tasks=tuple(tasks), configs=tuple(configs), blobs=tuple(x[1] for x in blobs)
    )
    # Streams stand for themselves by their tokens; each also says where its bytes are.
    at = dict([*((token, place) for token, _, place in blobs), *streams][::-1])
    made = canonical(loose, [token for token, _ in streams], [token for token, _, _ in blobs])
    made.manifest.check_canonical()
    places = {"manifest": (core, "manifest"), "shared": (core, "shared")}
    places |= {f"task/{i}": at[token] for i, token in enumerate(made.streams)}
    places |= {f"carried/{i}": at[token] for i, token in enumerate(made.blobs)}
    files = [core, *(part.file for part in parts)]
    metadata = metadata_of(made.manifest, core.version)
    if "library" in core.metadata:
        metadata["library"] = core.metadata["library"]
    header = sum(file.header + file.sizes["manifest"] for file in files)
    size = sum(file.size for file in files)
    about = where, metadata, core.version, core.rules
    return Opened(*about, made.manifest, places, size, header)


def _token(file: Container, name: str) -> bytes:
    """What stands for a tensor's bytes: their checksum and their number."""
    return f"{file.checksums[name]} {file.sizes[name]}".encode()
