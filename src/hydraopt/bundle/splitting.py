"""Split and join: a bundle as a core file and task files, and back, byte for byte."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from hydraopt.bundle import strictjson
from hydraopt.bundle.apart import (
    core_id,
    folded,
    only_core,
    open_apart,
    packed_core,
    packed_task,
    parts_beside,
)
from hydraopt.bundle.container import CORE, CORE_SUFFIX, TASK, TASK_SUFFIX
from hydraopt.bundle.kind import BUNDLE_SUFFIX
from hydraopt.bundle.opening import Container, Opened
from hydraopt.bundle.reader import Bundle, open_bundle
from hydraopt.bundle.writer import PackedBundle, pack_bundle
from hydraopt.errors import BundleFormatError, UsageError, explain
from hydraopt.files.writing import replaced_folder

__all__ = ["SplitFile", "join", "split", "task_file_name", "task_stem"]

_LONGEST: Final = 255
"""Bytes of a file's name."""


@dataclass(frozen=True)
class SplitFile:
    """A file of a bundle that was split. task: None for the core."""

    task: str | None
    path: Path
    size: int


def split(
    bundle: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    overwrite: bool = False,
    another_core: bool = False,
) -> list[SplitFile]:
    """Write what tasks share, and each task, to files of their own in ``folder``; the core first.

    bundle: one of format version 2.  overwrite: the folder may hold core and task files, which are
    replaced; other files in it stay.  another_core: even those of another core, which are another
    collection's. The folder appears, or changes, in one step. Raises BundleFormatError for a
    damaged bundle, UsageError for one of version 1 and for a folder that is not empty, or whose
    files may not be replaced.
    """
    opened, target = open_bundle(bundle), Path(folder)
    if opened.version < 2:
        raise UsageError(
            explain(
                "only bundles of format version 2 can be split",
                file=bundle,
                got=f"version {opened.version}",
                do="Merge the adapters again",
            )
        )
    if not overwrite and target.is_dir() and any(target.iterdir()):
        raise UsageError(
            explain("the folder is not empty", file=target, do="Empty it, or pass --overwrite")
        )
    files = _files_of(opened)
    core = next(files)
    if not another_core and target.is_dir():
        _check_core(target, core_id(strictjson.dumps(core[2].checksums)))
    written = []
    with replaced_folder(target, lambda name: name.endswith((CORE_SUFFIX, TASK_SUFFIX))) as made:
        for task, name, packed in chain([core], files):
            size = packed.write(made / name, opened.metadata.get("library"))
            written.append(SplitFile(task, target / name, size))
    return written


def _check_core(folder: Path, core: str) -> None:
    """Raise UsageError for a folder with files of another core than the one of that id.

    What cannot be read belongs to nobody.
    """
    for path in sorted(folder.iterdir()):
        if not path.name.endswith((CORE_SUFFIX, TASK_SUFFIX)):
            continue
        try:
            file = Container(path, (CORE, TASK), hold=False)
        except BundleFormatError:
            continue
        own = file.metadata.get("core", "")
        if file.format == CORE:
            own = core_id(file.metadata["checksums"])
        if own != core:
            raise UsageError(
                explain(
                    "the folder holds another collection",
                    file=path,
                    got=f"core {own[:16]}",
                    expected=core,
                    do="Choose another folder, or empty this one first",
                )
            )


def join(
    paths: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str]
) -> tuple[int, list[str]]:
    """Write the bundle of a core file and task files; returns its size and its tasks.

    paths: these files, or folders of them. Of all task files of a bundle it is that bundle, byte
    for byte; of some the bundle of these. Atomic. Raises BundleFormatError, naming the files: for
    no core or several, tasks of another core, two of one name, and damage.
    """
    source = _source_of([Path(path) for path in paths])
    data = {name: source.read(name) for name in source.places}
    streams, blobs = (
        [x for name, x in data.items() if name.startswith(start)] for start in ("task/", "carried/")
    )
    packed = pack_bundle(source.manifest, data["shared"], streams, blobs)
    size = packed.write(output, source.metadata.get("library"))
    return size, [task.name for task in source.manifest.tasks]


def _source_of(paths: Sequence[Path]) -> Opened:
    cores: list[Path] = []
    tasks: list[Path] = []
    for path in paths:
        if path.is_dir():
            core, beside = parts_beside(path)
            cores.append(core)
            tasks += beside
        else:
            is_core = Container(path, (CORE, TASK), hold=False).format == CORE
            (cores if is_core else tasks).append(path)
    where = paths[0] if len(paths) == 1 else paths[0].parent
    return open_apart(Container(only_core(cores, where), (CORE,)), tasks, where)


def _files_of(bundle: Bundle) -> Iterator[tuple[str | None, str, PackedBundle]]:
    """(task, name of the file, its content): the core, then each task."""
    core = packed_core(bundle.manifest, bundle.read("shared"))
    name = bundle.path.resolve().name
    for suffix in (BUNDLE_SUFFIX, CORE_SUFFIX, ".safetensors"):
        name = name.removesuffix(suffix)
    yield None, f"{name}{CORE_SUFFIX}", core
    known = core_id(strictjson.dumps(core.checksums))
    taken: set[str] = set()
    for index, task in enumerate(bundle.manifest.tasks):
        stream = None if task.content is None else bundle.read(f"task/{task.content}")
        blobs = [bundle.read(f"carried/{i}") for i in task.carried]
        file = task_file_name(task.name, taken)
        yield task.name, file, packed_task(bundle.manifest, index, stream, blobs, known)


def task_stem(task: str) -> str:
    """What a task's file is called by, without the suffix, as long as no other has that name."""
    name = task
    # A name that is no text is refused elsewhere, by its own words.
    while len(f"{name}{TASK_SUFFIX}".encode(errors="surrogatepass")) > _LONGEST - len(".tmp-") - 24:
        name = name[:-1]
    return name


def task_file_name(task: str, taken: set[str]) -> str:
    """A name that no file system takes for another or for too long; the manifest has the task's.

    taken: stems in use, as :func:`folded` gives them; the new one is added.
    """
    name = stem = task_stem(task)
    number = 1
    while folded(name) in taken:
        number += 1
        name = f"{stem}~{number}"
    taken.add(folded(name))
    return f"{name}{TASK_SUFFIX}"
