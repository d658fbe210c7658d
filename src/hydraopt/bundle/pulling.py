"""Pulling a bundle, or some of its tasks, to this machine: no more bytes than these take."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hydraopt.bundle.apart import core_id
from hydraopt.bundle.container import CORE, CORE_SUFFIX
from hydraopt.bundle.kind import BUNDLE_SUFFIX
from hydraopt.bundle.opening import Container
from hydraopt.bundle.reader import Bundle, open_bundle
from hydraopt.bundle.splitting import files_of, is_part
from hydraopt.bundle.taskfiles import renew_index
from hydraopt.errors import UsageError, explain
from hydraopt.files.cache import remote_cache
from hydraopt.files.url import AnyPath
from hydraopt.files.writing import write_atomically

__all__ = ["Pulled", "pull"]


@dataclass(frozen=True)
class Pulled:
    """What was pulled. tasks: names. size: bytes of it. fetched: bytes that came from the store;
    the others were in the cache. files: what was written; none if it went into the cache. warnings:
    what went wrong and costs nobody a task."""

    tasks: tuple[str, ...]
    size: int
    fetched: int
    files: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()


def pull(
    bundle: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    tasks: Iterable[str] | None = None,
) -> Pulled:
    """Fetch a bundle, every byte held against its checksum.

    tasks: those that are wanted; None for all. folder: None leaves their bytes in the cache, from
    where whoever opens the bundle takes them. In a folder go the files of a bundle in several
    files, as they are; of one in one file that file, or, for some of its tasks, a core and task
    files. A later pull adds its tasks to them. Raises TaskNotFoundError; UsageError for a folder
    with another core, or a bundle that the cache is too small for.
    """
    wanted = None if tasks is None else list(dict.fromkeys(tasks))
    opened = open_bundle(bundle, tasks=wanted)
    # All files are read in any case, and say themselves what is in them.
    names = tuple(x.name for x in opened.manifest.tasks) if wanted is None else tuple(wanted)
    if folder is None:
        size = _into_cache(opened, names)
        return Pulled(names, size, opened.fetched)
    target = Path(folder)
    if target.name.endswith(".safetensors") and not target.is_dir():
        raise UsageError(
            explain("pull writes into a folder", got=target, do="Give the folder's name")
        )
    written: list[Path] = []
    size = 0
    for name, pieces in _files(opened, wanted, target):
        target.mkdir(parents=True, exist_ok=True)
        size += write_atomically(target / name, pieces)
        written.append(target / name)
    parts = any(is_part(file.name) for file in written)
    warning = renew_index(target) if parts else None
    files, warnings = tuple(written), (warning,) if warning else ()
    return Pulled(names, size, opened.fetched, files, warnings)


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


def _files(
    bundle: Bundle, wanted: list[str] | None, folder: Path
) -> Iterator[tuple[str, Iterable[bytes]]]:
    """(name, content) of what is to be written; the core, which may be there already, last."""
    named: list[tuple[str, Iterable[bytes]]]
    core, *others = bundle.files
    if core.format == CORE:
        mark = core.metadata["checksums"]
        named = [(x.path.name, x.content()) for x in (*others, core)]
    elif wanted is None:
        if folder.is_dir() and any(folder.glob(f"*{CORE_SUFFIX}")):
            do = "Give another folder"
            raise UsageError(explain("the folder has another bundle", file=folder, do=do))
        _check_name(bundle.path.name, bundle.path)
        yield bundle.path.name, core.content()
        return
    else:
        _check_name(bundle.path.name, bundle.path)
        (_, name, packed), *tasks = files_of(bundle, wanted)
        packs = [*((x, pack) for _, x, pack in tasks), (name, packed)]
        library = bundle.metadata.get("library")
        named = [(x, pack.pieces(library)) for x, pack in packs]
        mark = packed.checksums_text
    for name, _ in named:
        _check_name(name, bundle.path)
    before = _core_in(folder)
    if before is not None and core_id(before.metadata["checksums"]) != core_id(mark):
        raise UsageError(
            explain(
                "the folder has tasks of another core",
                file=before.path,
                got=f"core {core_id(before.metadata['checksums'])}",
                expected=core_id(mark),
                do="Give another folder, or empty this one: its tasks fit its own core alone",
            )
        )
    yield from named[:-1] if before is not None else named


def _core_in(folder: Path) -> Container | None:
    """The core file of a folder, if there is one."""
    if not folder.is_dir():
        return None
    cores = sorted(folder.glob(f"*{CORE_SUFFIX}"))
    whole = sorted(folder.glob(f"*{BUNDLE_SUFFIX}"))
    if len(cores) > 1 or whole:
        got = ", ".join(x.name for x in (*cores, *whole)[:4])
        raise UsageError(
            explain("the folder has other bundles", file=folder, got=got, do="Give another folder")
        )
    return Container(cores[0], (CORE,)) if cores else None


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
