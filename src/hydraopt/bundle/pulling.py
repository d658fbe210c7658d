"""Download of a bundle, or some of its tasks, without more bytes than these take."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hydraopt.bundle.contents import Container
from hydraopt.bundle.encoding import BUNDLE_SUFFIX, CORE, TASK
from hydraopt.bundle.folder import Folder, renew_index
from hydraopt.bundle.names import stem_of, task_file_name
from hydraopt.bundle.opening import open_bundle
from hydraopt.bundle.parts import Parts, core_id
from hydraopt.bundle.reader import Bundle
from hydraopt.bundle.splitting import files_of
from hydraopt.errors import UsageError, explain
from hydraopt.files import (
    CORE_SUFFIX,
    INDEX_NAME,
    AnyPath,
    destination,
    locked_folder,
    locked_if_there,
    name_inside,
    remote_cache,
    write_atomically,
)
from hydraopt.notes import Note

_PulledPart = tuple[str | None, str, Iterable[bytes]]
"""A file: the task that it is of, None for the core; its name; its content."""


@dataclass(frozen=True)
class Pulled:
    """Result of a pull.

    tasks: names of the tasks.
    size: total bytes of what was pulled, without the index, which is made here.
    fetched: bytes of its files that came from the store; the others were in the cache.
    files: files that were written; empty if everything went into the cache.
    warnings: problems that affect no task.
    """

    tasks: tuple[str, ...]
    size: int
    fetched: int
    files: tuple[Path, ...] = ()
    warnings: tuple[Note, ...] = ()


def pull(
    bundle: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    tasks: Iterable[str] | None = None,
) -> Pulled:
    """Fetch a bundle, and check every byte against its checksum.

    bundle: path or address of the bundle.
    folder: folder to write to; None leaves the bytes in the cache, which :func:`open_bundle` uses.
        Files of a bundle in several files are written as they are. Of a bundle in one file, that
        file is written, or a core and task files if only some tasks are wanted; a later pull adds
        its tasks to them.
    tasks: names of the tasks to fetch; None for all.

    Raises TaskNotFoundError; UsageError for a folder with another core, or a bundle that is larger
    than the cache; LockedError for a folder, or a file in it, that somebody is changing.
    """
    wanted = None if tasks is None else list(dict.fromkeys(tasks))
    opened = open_bundle(bundle, tasks=wanted)
    # All files are read in any case, and say themselves what is in them.
    names = tuple(x.name for x in opened.manifest.tasks) if wanted is None else tuple(wanted)
    if folder is None:
        size = _into_cache(opened, names)
        return Pulled(names, size, opened.fetched)
    target = Path(folder)
    destination(target)
    if target.name.endswith(".safetensors") and not target.is_dir():
        raise UsageError(
            explain("pull writes into a folder", got=target, do="Give the folder's name")
        )
    if wanted is None and opened.files[0].format != CORE:
        file, size = _write_whole(opened, target)
        return Pulled(names, size, opened.fetched, (file,))
    written: list[Path] = []
    size = 0
    mark, parts = _parts(opened, wanted)
    target.mkdir(parents=True, exist_ok=True)
    with locked_folder(target):
        for _, name, pieces in list(_fitting(parts, mark, target)):
            size += write_atomically(target / name, pieces)
            written.append(target / name)
        warning = renew_index(target)
    if warning is not None:
        return Pulled(names, size, opened.fetched, tuple(written), (warning,))
    return Pulled(names, size, opened.fetched, (*written, target / INDEX_NAME))


def _into_cache(bundle: Bundle, names: Iterable[str]) -> int:
    sizes, needed = bundle.tensor_bytes, ["manifest", "shared"]
    for name in names:
        entry = bundle[name].entry
        needed += [] if entry.content is None else [f"task/{entry.content}"]
        needed += [f"carried/{i}" for i in entry.carried]
    needed = list(dict.fromkeys(needed))
    size, most = sum(sizes[x] for x in needed), remote_cache().most
    if size > most:
        raise UsageError(
            explain(
                "the cache is too small for what is pulled",
                file=bundle.path,
                got=f"{size:,} bytes",
                expected=f"at most {most:,}, which HYDRAOPT_CACHE_SIZE states",
                do="State more, or pull into a folder with -o",
            )
        )
    for x in needed:
        bundle.read(x)
    return size


def _write_whole(bundle: Bundle, folder: Path) -> tuple[Path, int]:
    """Write a bundle in one file to a folder; the file, and its size."""
    if folder.is_dir() and any(folder.glob(f"*{CORE_SUFFIX}")):
        do = "Give another folder"
        raise UsageError(explain("the folder has another bundle", file=folder, do=do))
    _check_name(bundle.path.name, bundle.path)
    folder.mkdir(parents=True, exist_ok=True)
    file = name_inside(folder, bundle.path.name)
    with locked_if_there(file):
        return file, write_atomically(file, bundle.files[0].content())


def _parts(bundle: Bundle, wanted: list[str] | None) -> tuple[str, list[_PulledPart]]:
    """Return the checksums of the core, and the files of the tasks with the core last."""
    named: list[_PulledPart]
    core = bundle.files[0]
    if core.format == CORE:
        mark = core.metadata["checksums"]
        whole = bundle.source.whole
        assert isinstance(whole, Parts)
        named = [(x, file.path.name, file.content()) for x, file in whole.parts.items()]
        named.append((None, core.path.name, core.content()))
    else:
        _check_name(bundle.path.name, bundle.path)
        first, *others = files_of(bundle, wanted)
        library = bundle.metadata.get("library")
        named = [
            (x.name if x else None, y, packed.pieces(library)) for x, y, packed in (*others, first)
        ]
        mark = first[2].checksums_text
    for _, name, _ in named:
        _check_name(name, bundle.path)
    return mark, named


def _fitting(parts: list[_PulledPart], mark: str, folder: Path) -> Iterator[_PulledPart]:
    """Yield the parts to write; if the core is there already, the task files as it calls them.

    A second file of a task would make the folder unreadable. Other tasks get names that no file
    has, except perhaps a file that cannot be read.

    mark: checksums of the core.
    """
    cores, whole = (sorted(folder.glob(f"*{x}")) for x in (CORE_SUFFIX, BUNDLE_SUFFIX))
    if len(cores) > 1 or whole:
        got = ", ".join(x.name for x in (*cores, *whole)[:4])
        raise UsageError(
            explain("the folder has other bundles", file=folder, got=got, do="Give another folder")
        )
    if not cores:
        yield from parts
        return
    there = Folder(folder)
    if there.core.id != core_id(mark):
        raise _of_another_core(cores[0], there.core.id, core_id(mark))
    for name in there.known.foreign:
        own = Container(folder / name, (TASK,)).metadata.get("core", "none")
        raise _of_another_core(folder / name, own, there.core.id)
    taken = {stem_of(name) for name in there.known.files}
    for task, name, pieces in parts:
        if task is None:  # the core
            continue
        known = there.known.of(task)
        if known is not None:
            name = known.file
        elif stem_of(name) in taken:
            name = task_file_name(task, taken)
        taken.add(stem_of(name))
        yield task, name, pieces


def _of_another_core(file: AnyPath, got: str, expected: str) -> UsageError:
    return UsageError(
        explain(
            "the folder has tasks of another core",
            file=file,
            got=f"core {got}",
            expected=expected,
            do="Give another folder, or empty this one: its tasks fit its own core alone",
        )
    )


def _check_name(name: str, bundle: AnyPath) -> None:
    """Raise UsageError for a name by which a file would lie elsewhere: an address may hold any."""
    if name in ("", ".", "..") or set(name) & set("/\\\0"):
        raise UsageError(
            explain(
                "a file of the bundle has a name that is none for a file",
                file=bundle,
                got=repr(name),
                do="Pull it from a folder or an address whose last part is a plain name",
            )
        )
