"""Indexes of folders that say something else, and folders without one."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

from hydraopt.bundle import Bundle, checksum, header_of, open_bundle
from hydraopt.files import INDEX_NAME

__all__ = ["index_text", "rewritten", "same", "whole"]


def whole(folder: Path) -> Bundle:
    """The same bundle without an index."""
    bare = folder.with_name(f"bare-{len(list(folder.parent.iterdir()))}")
    shutil.copytree(folder, bare)
    (bare / INDEX_NAME).unlink(missing_ok=True)
    return open_bundle(bare)


def same(folder: Path) -> bool:
    """Whether names, rows and factors are those of the files."""
    mine, theirs = open_bundle(folder), whole(folder)
    assert list(mine) == list(theirs)
    assert mine.rows == theirs.rows
    assert mine.size == theirs.size
    assert mine.metadata == theirs.metadata
    for name in theirs:
        for path, factors in theirs[name].factors().items():
            other = mine[name].factors()[path]
            assert (factors.B == other.B).all()
            assert (factors.A == other.A).all()
    assert mine.manifest == theirs.manifest
    return True


def index_text(folder: Path) -> bytes:
    """The JSON of the index."""
    data = (folder / INDEX_NAME).read_bytes()
    return zlib.decompress(data[12 + int.from_bytes(data[:8], "little") :])


def rewritten(
    folder: Path, change: Callable[[dict[str, object]], object], pad: int = 0, **more: str
) -> None:
    """Let the index say something else, with right checksums, as no accident does it.

    pad: spaces after its JSON. more: of its metadata.
    """
    data = (folder / INDEX_NAME).read_bytes()
    about = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    value = json.loads(index_text(folder))
    value = change(value) or value
    text = json.dumps(value).encode() + b" " * pad
    packed = len(text).to_bytes(4, "little") + zlib.compress(text)
    about = {**about, **more, "checksums": json.dumps([checksum(packed)])}
    head = header_of([("manifest", "U8", (len(packed),), len(packed))], about)
    (folder / INDEX_NAME).write_bytes(head + packed)
