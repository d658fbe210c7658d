"""Output paths of a bundle: one file, or a folder of core and task files; local or in a store."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from string import ascii_letters, digits
from typing import Final

from hydraopt.bundle.container import BUNDLE_SUFFIX, CORE_SUFFIX
from hydraopt.bundle.spec import Manifest
from hydraopt.bundle.writer import PackedBundle, canonical
from hydraopt.collection.apart import packed_core, packed_task
from hydraopt.collection.beside import task_file_name
from hydraopt.collection.index import IndexedFile, packed_index
from hydraopt.collection.piece import TaskPiece
from hydraopt.collection.splitting import SplitFile, split
from hydraopt.errors import UsageError, explain
from hydraopt.files.aside import Chosen
from hydraopt.files.folders import check_empty, files_in, is_folder
from hydraopt.files.lock import locked_if_there
from hydraopt.files.outputs import destination
from hydraopt.files.url import AnyPath, Url, place_of
from hydraopt.files.writing import scratch_folder

StrPath = str | os.PathLike[str]

__all__ = [
    "as_folder",
    "check_output",
    "check_parent",
    "core_name",
    "size_apart",
    "written",
    "written_folder",
]

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

    core: name of the core file. Others: as for :func:`hydraopt.collection.splitting.split`.
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
