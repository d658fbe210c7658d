"""Split and join: a bundle as a core file and task files, and back, byte for byte."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from hydraopt.bundle.container import (
    BUNDLE_SUFFIX,
    CORE,
    CORE_SUFFIX,
    INDEX_NAME,
    TASK,
    TASK_SUFFIX,
)
from hydraopt.bundle.contents import Container, Contents
from hydraopt.bundle.reader import Bundle
from hydraopt.bundle.row import TaskRow
from hydraopt.bundle.writer import PackedBundle, pack_bundle
from hydraopt.collection.apart import core_id, core_of, open_apart, packed_core, packed_task
from hydraopt.collection.beside import only_core, stem_of, task_file_name
from hydraopt.collection.index import indexed_now, write_index
from hydraopt.collection.indexed import Folder
from hydraopt.collection.opening import open_bundle
from hydraopt.collection.piece import held_in
from hydraopt.errors import BundleFormatError, UsageError, explain
from hydraopt.files.apart import check_apart
from hydraopt.files.aside import Aside, Laid
from hydraopt.files.folders import check_empty, files_in, is_folder, remove_file
from hydraopt.files.lock import locked_folder, locked_if_there
from hydraopt.files.outputs import destination
from hydraopt.files.parts import is_part
from hydraopt.files.url import AnyPath, Url, place_of
from hydraopt.files.writing import replaced_folder, write_new

__all__ = ["SplitFile", "files_of", "join", "split"]

_Part = tuple[TaskRow | None, str, PackedBundle]
"""(row of the task, None for the core; name of the file; its content)."""


@dataclass(frozen=True)
class SplitFile:
    """File of a bundle that was split.

    task: name of its task; None for the core and for the index.
    """

    task: str | None
    path: AnyPath
    size: int


def split(
    bundle: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    overwrite: bool = False,
    another_core: bool = False,
    held: bool = False,
) -> list[SplitFile]:
    """Write what tasks share, each task, and an index to files of their own in ``folder``.

    Returns the core first and the index last.

    bundle: path or address of the bundle.
    folder: folder to write, here or in a store.
    overwrite: replace core and task files in the folder; other files stay.
    another_core: replace also files of another core, and tasks that the bundle does not have.
    held: True if the caller holds the folder's lock.

    On this machine the folder appears, or changes, in one step. A store replaces one object at a
    time: tasks get names that no task of another core has, and the new core is written last, under
    the name of the old core.

    Raises BundleFormatError for a damaged bundle, UsageError for a folder that is not empty or
    whose files may not be replaced, LockedError for a folder that somebody is changing.
    """
    opened, target = open_bundle(bundle), place_of(folder)
    destination(target)
    if not overwrite and is_folder(target):
        check_empty(target, "Empty it, or pass --force")
    if isinstance(target, Path) and target.exists() and not target.is_dir():
        raise UsageError(explain("the output is a file", file=target, do="Give a folder"))
    nothing_lost = held or not overwrite or not is_folder(target)
    with nullcontext() if nothing_lost else locked_folder(target):
        files = files_of(opened)
        core = next(files)
        if not another_core and is_folder(target):
            _check_core(target, core_id(core[2].checksums_text), set(opened))
        if isinstance(target, Url):
            return _split_to_store(target, opened, core[2], core[1])
        return _split_here(target, opened, core, files)


def _split_here(
    target: Path, opened: Bundle, core: _Part, files: Iterator[_Part]
) -> list[SplitFile]:
    mine = core_id(core[2].checksums_text)
    written, indexed = [], []
    library = opened.metadata.get("library")
    with replaced_folder(target, is_part) as made:
        for row, name, packed in chain([core], files):
            size = write_new(made / name, packed.pieces(library))
            written.append(SplitFile(row.name if row else None, target / name, size))
            if row is not None:
                indexed.append(indexed_now(made / name, row, packed, library))
        size = write_index(made, (core[1], mine), indexed)
    return [*written, SplitFile(None, target / INDEX_NAME, size)]


def _split_to_store(target: Url, bundle: Bundle, core: PackedBundle, name: str) -> list[SplitFile]:
    """Write task files first, then the core, then the index; then remove what was there before.

    No task of another core is overwritten. A reader that comes in between, or after a writer that
    was killed, therefore gets the old core with all its tasks or the new one with all its own.
    """
    mine, library = core_id(core.checksums_text), bundle.metadata.get("library")
    there = {
        x.name: _core_of(target / x.name)
        for x in files_in(target) or []
        if x.name.endswith((CORE_SUFFIX, TASK_SUFFIX)) and not x.is_folder
    }
    cores = [x for x in there if x.endswith(CORE_SUFFIX)]
    if len(cores) == 1:
        name = cores[0]
    strangers = [x for x in there if x.endswith(TASK_SUFFIX) and there[x] != mine]
    written, indexed = [], []
    for row, file, packed in files_of(bundle, taken=strangers):
        if row is not None:
            place = target / file
            written.append(SplitFile(row.name, place, packed.write(place, library)))
            indexed.append(indexed_now(place, row, packed, library))
    stale = set(there) - {x.path.name for x in written} - {name}
    if mine not in {there[x] for x in cores}:
        # A writer that died left them; they would be tasks as soon as the core is there.
        unseen = {x for x in stale if there[x] == mine}
        _remove_all(target, unseen)
        stale -= unseen
    head = SplitFile(None, target / name, core.write(target / name, library))
    index = SplitFile(None, target / INDEX_NAME, write_index(target, (name, mine), indexed))
    _remove_all(target, stale)
    return [head, *written, index]


def _remove_all(folder: Url, names: Iterable[str]) -> None:
    for name in sorted(names):
        remove_file(folder / name)


def _core_of(path: AnyPath) -> str | None:
    """Return the id of the core that a core or task file belongs to; None if it is unreadable."""
    try:
        file = Container(path, (CORE, TASK), hold=False)
    except BundleFormatError:
        return None
    if file.format == CORE:
        return core_id(file.metadata["checksums"])
    return file.metadata.get("core", "")


def _check_core(folder: AnyPath, core: str, tasks: Collection[str]) -> None:
    """Raise UsageError for a folder with files of another core, or with other tasks of this core.

    Other tasks were added since.

    What cannot be read belongs to nobody.
    """
    for name in sorted(x.name for x in files_in(folder) or []):
        if not name.endswith((CORE_SUFFIX, TASK_SUFFIX)):
            continue
        path = folder / name
        own = _core_of(path)
        if own is None:
            continue
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
    there: set[str] = set()
    with suppress(BundleFormatError):
        there = set(open_bundle(folder)) if files_in(folder) else there
    if lost := sorted(there - set(tasks)):
        raise UsageError(
            explain(
                "the folder has tasks that the bundle does not have",
                file=folder,
                got=", ".join(lost[:5]) + (", ..." if len(lost) > 5 else ""),
                do="Split into another folder, or remove these tasks first: hydraopt remove",
            )
        )


def join(
    paths: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str]
) -> tuple[int, list[str]]:
    """Write the bundle of a core file and task files in one file; return its size and its tasks.

    All task files of a bundle give that bundle, byte for byte; some give the bundle of these tasks.
    The output is written atomically.

    paths: a core file and task files, or folders of them.
    output: file to write.

    Raises BundleFormatError, naming the files, for no core or several, tasks of another core, two
    tasks of one name, and damage; UsageError for no paths, or an output that is one of the parts;
    LockedError for an output that somebody is changing.
    """
    if not paths:
        do = "Give a core file and task files, or their folder"
        raise UsageError(explain("there is nothing to join", got="no paths", do=do))
    source = _source_of([place_of(path) for path in paths])
    check_apart(output, [file.path for file in source.whole.files])
    aside = Aside()
    places = {name: aside.put(source.read(name)) for name in source.places}
    streams, blobs = (
        Laid(aside, [place for name, place in places.items() if name.startswith(start)])
        for start in ("task/", "carried/")
    )
    packed = pack_bundle(source.manifest, aside.read(places["shared"]), streams, blobs)
    with locked_if_there(output):
        size = packed.write(destination(output), source.metadata.get("library"))
    return size, [task.name for task in source.manifest.tasks]


def _source_of(paths: Sequence[AnyPath]) -> Contents:
    cores: list[AnyPath] = []
    tasks: list[AnyPath] = []
    # Of a folder in a store, files of another core are left out, as by open_bundle.
    strict = not (len(paths) == 1 and isinstance(paths[0], Url) and is_folder(paths[0]))
    for path in paths:
        if path.name == INDEX_NAME:
            continue  # All of FOLDER/* is given; what an index says is in the others.
        if is_folder(path):
            folder = Folder(path)
            cores.append(folder.place)
            tasks += folder.paths()
        else:
            is_core = Container(path, (CORE, TASK), hold=False).format == CORE
            (cores if is_core else tasks).append(path)
    where = paths[0] if len(paths) == 1 else paths[0].parent
    core_file = core_of(Container(only_core(_once(cores), where), (CORE,)))
    return open_apart(core_file, _once(tasks), where, strict)


def _once(paths: Iterable[AnyPath]) -> list[AnyPath]:
    """Return each file once: FOLDER and FOLDER/* may both be given."""
    files: dict[object, AnyPath] = {}
    for path in paths:
        files.setdefault(os.path.realpath(path) if isinstance(path, Path) else path, path)
    return list(files.values())


def files_of(
    bundle: Bundle, wanted: Collection[str] | None = None, taken: Iterable[str] = ()
) -> Iterator[_Part]:
    """Yield (row, file name, content) of the core, then of each task, or of those wanted.

    Nothing of other tasks is read.

    taken: names of task files that must not be reused.
    """
    core = packed_core(bundle.manifest, bundle.read("shared"))
    path = bundle.path
    name = os.path.basename(os.path.realpath(path)) if isinstance(path, Path) else path.name
    for suffix in (BUNDLE_SUFFIX, CORE_SUFFIX, ".safetensors"):
        name = name.removesuffix(suffix)
    yield None, f"{name}{CORE_SUFFIX}", core
    known = core_id(core.checksums_text)
    stems = {stem_of(file) for file in taken}
    for task in bundle.manifest.tasks:
        file = task_file_name(task.name, stems)
        if wanted is None or task.name in wanted:
            piece = held_in(bundle, task.name)
            yield piece.row, file, packed_task(bundle.manifest, piece, known)
