"""Telling bundles from adapters, by content."""

from __future__ import annotations

import json
import os
from pathlib import Path

from hydraopt.bundle.container import FORMAT
from hydraopt.files.reading import open_regular

__all__ = ["BUNDLE_SUFFIX", "is_bundle"]

BUNDLE_SUFFIX = ".hydra.safetensors"
_MOST_HEADER = 100 << 20


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Whether the file says that it is a bundle; nothing else about it is checked.

    A file whose header cannot be read counts as one if it has a bundle's name, so that whoever
    opens it next can say what is wrong with it. False for folders and for what does not exist.
    """
    file = Path(path)
    if not file.is_file():
        return False
    with open_regular(file) as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(length) if length <= _MOST_HEADER else b""
    try:
        parsed = json.loads(header)
    except (ValueError, RecursionError):
        return file.name.endswith(BUNDLE_SUFFIX)
    metadata = parsed.get("__metadata__") if isinstance(parsed, dict) else None
    return isinstance(metadata, dict) and metadata.get("format") == FORMAT
