"""Split and join: a bundle as a core file and task files, and back; outputs of both kinds."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from string import ascii_letters, digits
from typing import Final

from hydraopt.bundle.contents import Container, Contents
from hydraopt.bundle.encoding import BUNDLE_SUFFIX, CORE, TASK
from hydraopt.bundle.folder import Folder
from hydraopt.bundle.index import IndexedFile, indexed_now, packed_index, write_index
from hydraopt.bundle.manifest import Manifest, TaskRow
from hydraopt.bundle.names import only_core, stem_of, task_file_name
from hydraopt.bundle.opening import open_bundle
from hydraopt.bundle.parts import (
    TaskPiece,
    core_id,
    core_of,
    held_in,
    open_apart,
    packed_core,
    packed_task,
)
from hydraopt.bundle.reader import Bundle
from hydraopt.bundle.writer import PackedBundle, canonical, pack_bundle
from hydraopt.codec import Aside, Chosen, Laid
from hydraopt.errors import BundleFormatError, UsageError, explain
from hydraopt.files import (
    CORE_SUFFIX,
    INDEX_NAME,
    TASK_SUFFIX,
    AnyPath,
    StrPath,
    Url,
    check_apart,
    check_empty,
    destination,
    files_in,
    is_folder,
    is_part,
    locked_folder,
    locked_if_there,
    place_of,
    remove_file,
    replaced_folder,
    scratch_folder,
    write_new,
)

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


_ID: Final = "0" * 16
_HASH: Final = 128
"""Bits of an MD5."""
_MARK: Final = 160
"""Bits of the longest hash that a store marks an object with: git's, on the Hugging Face hub."""
_NAME: Final = 255
"""Bytes of the longest name that a file has here."""
_SPARE: Final = 64, 64
"""Spare bytes for an index: a number, and one more for this many of its own bytes."""


def as_folder(output: StrPath) -> bool:
    """Return whether the output is a folder with a core file and task files."""
    target = place_of(output)
    if os.fspath(output).endswith(("/", os.sep)):
        return True
    if isinstance(target, Path):
        return target.is_dir()
    # A store has no empty folders; what it would list makes one, also without the slash.
    return not target.is_web and bool(target.name) and is_folder(target) and bool(files_in(target))


def core_name(output: StrPath) -> str | None:
    """Return the name of the core file, if the output is a folder; otherwise None."""
    if not as_folder(output):
        return None
    target = place_of(output)
    name = Path(os.path.abspath(target)).name if isinstance(target, Path) else target.name
    return f"{name}{CORE_SUFFIX}"


def check_output(output: StrPath) -> None:
    """Raise UsageError for an output that cannot be written, or a folder that is not empty."""
    target = destination(output)
    if isinstance(target, Url) and (target.is_web or not target.name):
        what = "nothing can be written over HTTP" if target.is_web else "the output has no name"
        do = "Give the name of an object in a store (s3://, gs://, hf://), or a local file"
        raise UsageError(explain(what, file=target, do=do))
    if not as_folder(output):
        check_parent(target)
        return
    if isinstance(target, Path) and not target.is_dir():
        if target.exists():
            raise UsageError(explain("a file is in the way of the folder", file=target))
        return
    check_empty(target, "Empty it, or name another")


def check_parent(target: AnyPath) -> None:
    """Raise UsageError for a file here whose folder is not there, or may not be written to."""
    if not isinstance(target, Path):
        return
    parent = destination(target).parent
    if parent.is_dir() and os.access(parent, os.W_OK):
        return
    what = "may not be written to" if parent.is_dir() else "is not there"
    do = "Make it, or name an output elsewhere"
    raise UsageError(explain(f"the output's folder {what}", file=target, got=parent, do=do))


def written(packed: PackedBundle, output: StrPath) -> int:
    """Write a file, or a folder of a core, its tasks and their index, and return the bytes.

    The output may be in a store. Raises LockedError for a file that is being changed.
    """
    if not as_folder(output):
        with locked_if_there(output):
            return packed.write(destination(output))
    files = written_folder(packed, place_of(output), core_name(output) or "")
    return sum(file.size for file in files)


def written_folder(
    packed: PackedBundle,
    target: AnyPath,
    core: str,
    overwrite: bool = False,
    another_core: bool = False,
    held: bool = False,
) -> list[SplitFile]:
    """Write a folder of a core, its tasks and their index, and return the files, the index last.

    core: name of the core file. Others: as for :func:`hydraopt.bundle.splitting.split`.
    """
    made: AbstractContextManager[str | Path]
    if isinstance(target, Path):
        target = destination(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        made = scratch_folder(target)
    else:
        made = tempfile.TemporaryDirectory()
    with made as scratch:
        whole = Path(scratch) / f"{core.removesuffix(CORE_SUFFIX)}{BUNDLE_SUFFIX}"
        packed.write(whole)
        return split(whole, target, overwrite, another_core, held)


def size_apart(
    core: str, manifest: Manifest, shared: bytes, streams: Sequence[bytes], blobs: Sequence[bytes]
) -> int:
    """Return an upper bound on the total bytes of core file, task files and index.

    core: the name of the core file.
    Others: as for :func:`hydraopt.bundle.writer.pack_bundle`.

    Core and tasks are counted exactly. An index holds times and hashes that are not known yet, so
    it is packed with random ones, which take the same space, plus some spare bytes. The name of the
    core in it counts as the longest one, so that the same content has the same size, and a merge
    within a limit gives the same bytes, wherever the folder is.
    """
    manifest, streams, blobs = canonical(manifest, streams, blobs)
    size, stems, files = packed_core(manifest, shared).size, set[str](), list[IndexedFile]()
    rng = random.Random(0)
    for task in manifest.tasks:
        piece = TaskPiece(
            task.alone(),
            manifest.configs[task.config],
            b"" if task.content is None else streams[task.content],
            tuple(manifest.blobs[i] for i in task.carried),
            Chosen((blobs, task.carried)),
        )
        own = packed_task(manifest, piece, _ID).size
        # A mark is a hash at most, maybe in quotes: of a file here it is a time, which is shorter.
        mark, md5 = f'"{rng.getrandbits(_MARK):040x}"', f"{rng.getrandbits(_HASH):032x}"
        file = task_file_name(task.name, stems)
        files.append(IndexedFile(file, own, task.name, piece.row, mark, md5))
        size += own
    longest = "".join(rng.choices(ascii_letters + digits, k=_NAME - len(CORE_SUFFIX)))
    core = max(core, f"{longest}{CORE_SUFFIX}", key=lambda name: len(name.encode(errors="replace")))
    expected = packed_index((core, _ID), files).size
    return size + expected + _SPARE[0] + expected // _SPARE[1]
