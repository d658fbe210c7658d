"""Telling bundles from adapters, by content."""

from __future__ import annotations

import json
import os

from hydraopt.adapters.safetensorsfile import can_be_safetensors
from hydraopt.bundle.container import (
    BUNDLE_SUFFIX,
    CORE,
    CORE_SUFFIX,
    FORMAT,
    INDEX,
    INDEX_NAME,
    TASK,
    TASK_SUFFIX,
)
from hydraopt.errors import AdapterFormatError, NotThereError
from hydraopt.files.folders import files_in, is_folder
from hydraopt.files.ranges import RemoteFile
from hydraopt.files.reading import open_regular
from hydraopt.files.url import Url, place_of

__all__ = ["is_bundle"]

_SUFFIXES = (BUNDLE_SUFFIX, CORE_SUFFIX, TASK_SUFFIX, INDEX_NAME)
_FORMATS = (FORMAT, CORE, TASK, INDEX)
_MOST_HEADER = 100 << 20


def is_bundle(path: str | os.PathLike[str], whole: bool = False) -> bool:
    """Return True if the file declares itself a bundle or a part of one; nothing else is checked.

    A file whose header cannot be read counts as one if it has a bundle's name, so that opening it
    can report what is wrong. A folder counts if it contains a core file. False if the path does not
    exist, and, with ``whole``, for parts of a bundle.
    """
    file = place_of(path)
    if isinstance(file, Url):
        return _is_remote_bundle(file, whole)
    if file.is_dir():
        return not whole and any(file.glob(f"*{CORE_SUFFIX}"))
    if not file.is_file():
        return False
    with open_regular(file) as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(length) if length <= _MOST_HEADER else b""
    return _says_so(header, file.name, whole)


def _is_remote_bundle(url: Url, whole: bool) -> bool:
    if is_folder(url):
        inside = [] if whole else files_in(url) or []
        return any(x.name.endswith(CORE_SUFFIX) for x in inside)
    try:
        file = RemoteFile(url, can_be_safetensors(url))
    except NotThereError:
        return False
    except AdapterFormatError:
        return _says_so(b"", url.name, whole)
    length = int.from_bytes(file.read(0, 8), "little")
    header = file.read(8, length) if length <= min(_MOST_HEADER, file.size - 8) else b""
    return _says_so(header, url.name, whole)


def _says_so(header: bytes, name: str, whole: bool) -> bool:
    """Return True if the header declares a bundle; if it is unreadable, decide by the file name."""
    try:
        parsed = json.loads(header)
    except (ValueError, RecursionError):
        return name.endswith(_SUFFIXES[:1] if whole else _SUFFIXES)
    metadata = parsed.get("__metadata__") if isinstance(parsed, dict) else None
    return isinstance(metadata, dict) and metadata.get("format") in (
        _FORMATS[:1] if whole else _FORMATS
    )
