"""Size of a bundle in several files, computed before any of them is written."""

from __future__ import annotations

import random
from collections.abc import Sequence
from string import ascii_letters, digits
from typing import Final

from hydraopt.bundle.container import CORE_SUFFIX
from hydraopt.bundle.row import row_of_file
from hydraopt.bundle.spec import Manifest
from hydraopt.bundle.writer import canonical
from hydraopt.collection.apart import packed_core, packed_task
from hydraopt.collection.beside import task_file_name
from hydraopt.collection.index import IndexedFile, packed_index
from hydraopt.files.aside import Chosen, sizes_of

__all__ = ["size_apart"]

_ID: Final = "0" * 16
_HASH: Final = 128
"""Bits of an MD5."""
_MARK: Final = 160
"""Bits of the longest hash that a store marks an object with: git's, on the Hugging Face hub."""
_NAME: Final = 255
"""Bytes of the longest name that a file has here."""
_SPARE: Final = 64, 64
"""Spare bytes for an index: a number, and one more for this many of its own bytes."""


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
    for index, task in enumerate(manifest.tasks):
        stream = None if task.content is None else streams[task.content]
        packed = packed_task(manifest, index, stream, Chosen((blobs, task.carried)), _ID)
        sizes = dict(zip(packed.names, sizes_of(packed.payload), strict=True))
        row = row_of_file(task, manifest.configs[task.config], sizes)
        # A mark is a hash at most, maybe in quotes: of a file here it is a time, which is shorter.
        mark, md5 = f'"{rng.getrandbits(_MARK):040x}"', f"{rng.getrandbits(_HASH):032x}"
        file, own = task_file_name(task.name, stems), packed.size
        files.append(IndexedFile(file, own, task.name, row, mark, md5))
        size += own
    longest = "".join(rng.choices(ascii_letters + digits, k=_NAME - len(CORE_SUFFIX)))
    core = max(core, f"{longest}{CORE_SUFFIX}", key=lambda name: len(name.encode(errors="replace")))
    expected = packed_index((core, _ID), files).size
    return size + expected + _SPARE[0] + expected // _SPARE[1]
