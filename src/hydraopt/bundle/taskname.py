"""Whose a task file is, from its first bytes: for who asks all files of a folder."""

from __future__ import annotations

import json
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from hydraopt.bundle.container import TASK
from hydraopt.bundle.opening import Container, refuse_file

__all__ = ["task_name_in"]

_HEAD: Final = 1 << 11
"""Bytes that hold the head and the manifest of nearly every task file."""
_MOST_TEXT: Final = 1 << 16
_START: Final = 8
_SIZE_BYTES: Final = 4


def task_name_in(path: Path, core: str) -> str | None:
    """The name of the task in a task file; None if it belongs to another core than that of the id.

    Nothing else of the file is checked. Raises BundleFormatError for a file that has no such name.
    """
    odd = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, zlib.error)
    with suppress(*odd):
        return _glimpsed(path, core)
    # What is long or odd is read with care, and what is damaged is refused by name.
    file = Container(path, (TASK,), hold=False)
    return _name_of(file.manifest(), path) if file.metadata.get("core") == core else None


def _glimpsed(path: Path, core: str) -> str | None:
    """The same, a sixth of the work, for a file that begins as writers begin one; else raises any
    of the errors that are suppressed above."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        start = os.read(descriptor, _HEAD)
    finally:
        os.close(descriptor)
    end = _START + int.from_bytes(start[:_START], "little")
    head = json.loads(start[_START:end])
    about, (first, last) = head["__metadata__"], head["manifest"]["data_offsets"]
    packed = start[end + first : end + last]
    if about["format"] != TASK or first < 0 or len(packed) != last - first:
        raise ValueError("not as writers begin a task file, or longer")
    if about["core"] != core:
        return None
    stream = zlib.decompressobj()
    text = stream.decompress(packed[_SIZE_BYTES:], _MOST_TEXT)
    if not stream.eof:
        raise ValueError("a long manifest")
    return _name_of(json.loads(text), path)


def _name_of(manifest: Any, path: Path) -> str:
    try:
        (name,) = manifest["tasks"]["name"]
    except (TypeError, KeyError, ValueError):
        name = None
    if not isinstance(name, str):
        refuse_file("a task file does not name one task", path)
    return name
