"""Cache on disk of measurements with a base model, which take minutes and are needed repeatedly.

Entries are JSON files named by the SHA-256 of everything that they depend on, in a folder under
``$HYDRAOPT_CACHE`` (default ``~/.cache/hydraopt``). A run that was interrupted continues from them.
The cache is optional: where the folder cannot be written, nothing is stored. An entry that is not
used for 90 days is deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from hydraopt.files.cache import cache_root
from hydraopt.files.reading import read_regular

__all__ = ["JsonCache", "cache_folder", "key_of", "versions"]

_MOST: Final = 256 << 20
"""Maximum size of an entry, in bytes."""
_SHORT: Final = 1 << 12
"""Maximum size of an entry that is kept in memory as well, in bytes; answers would fill it."""
_OURS: Final = re.compile(r"[0-9a-f]{64}\.json|tmp\w+\.new")
_DAYS: Final = 90
"""Days without use after which an entry is deleted."""


def cache_folder() -> Path:
    """Return the folder of cached harm measurements; it is not created here."""
    return cache_root() / "harm"


def key_of(parts: Iterable[bytes | str]) -> str:
    """Hash many parts, including their boundaries."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def versions() -> str:
    """Return the versions of the libraries, which affect rounding, masks and ends of answers."""
    import torch
    import transformers

    return f"torch {torch.__version__} transformers {transformers.__version__}"


class JsonCache:
    """JSON values by key.

    folder: None keeps nothing beyond the process.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._known: dict[str, Any] = {}
        self._tidy = False

    def get(self, key: str) -> Any:
        """Return the value of the key; None if there is none or it cannot be read."""
        if key in self._known:
            return self._known[key]
        if self._folder is None:
            return None
        value, file, data = None, self._folder / f"{key}.json", b""
        with suppress(OSError, ValueError, RecursionError):
            data = read_regular(file, _MOST)
            value = json.loads(data)
        if value is not None:
            with suppress(OSError):  # a folder may be read-only
                os.utime(file)
            if len(data) <= _SHORT:
                self._known[key] = value
        return value

    def put(self, key: str, value: Any) -> None:
        """Keep a value: on disk, in one step, if there is room and it is not too large.

        It stays in memory as well if it is short or not on disk.
        """
        text = "" if self._folder is None else json.dumps(value)
        on_disk = False
        if self._folder is not None and len(text) <= _MOST:
            with suppress(OSError):
                self._write(self._folder, key, text)
                on_disk = True
        if not on_disk or len(text) <= _SHORT:
            self._known[key] = value
        else:
            self._known.pop(key, None)

    def _write(self, folder: Path, key: str, text: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._remove_old(folder)
        handle, name = tempfile.mkstemp(dir=folder, suffix=".new")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(text)
            Path(name).replace(folder / f"{key}.json")
        except BaseException:  # who is interrupted leaves nothing either
            Path(name).unlink(missing_ok=True)
            raise

    def _remove_old(self, folder: Path) -> None:
        """Delete, once, entries unused for _DAYS and the files of killed writers."""
        if self._tidy:
            return
        self._tidy = True
        before = time.time() - _DAYS * 86_400
        with suppress(OSError), os.scandir(folder) as files:
            for file in files:
                with suppress(OSError):
                    if _OURS.fullmatch(file.name) and file.stat().st_mtime < before:
                        os.unlink(file.path)
