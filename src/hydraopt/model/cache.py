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
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from hydraopt.files import read_regular

_MOST: Final = 256 << 20
"""Maximum size of an entry, in bytes."""
_OURS: Final = re.compile(r"[0-9a-f]{64}\.json|tmp\w+\.new")
_DAYS: Final = 90
"""Days without use after which an entry is deleted."""


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
    """JSON values by key. An entry that is damaged counts as missing.

    A file has the SHA-256 of its value in its first line, so that what is read back is what was
    stored, and its readers need no checks of their own.

    folder: None keeps nothing beyond the process.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._unwritten: dict[str, Any] = {}
        self._tidy = False

    def recall(self, key: str, make: Callable[[], Any]) -> Any:
        """Return the value of the key; ``make`` it and store it if there is none."""
        value = self.get(key)
        if value is None:
            value = make()
            self.put(key, value)
        return value

    def get(self, key: str) -> Any:
        """Return the value of the key; None if there is none or it is damaged."""
        if self._folder is None or key in self._unwritten:
            return self._unwritten.get(key)
        file = self._folder / f"{key}.json"
        with suppress(OSError, ValueError, RecursionError):
            digest, _, text = read_regular(file, _MOST).partition(b"\n")
            if digest.decode() == hashlib.sha256(text).hexdigest():
                with suppress(OSError):  # a folder may be read-only
                    os.utime(file)
                return json.loads(text)
        return None

    def put(self, key: str, value: Any) -> None:
        """Keep a value on disk, in one step; in memory where the folder cannot be written."""
        if self._folder is not None:
            with suppress(OSError):
                self._write(self._folder, key, json.dumps(value).encode())
                return
        self._unwritten[key] = value

    def _write(self, folder: Path, key: str, text: bytes) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._remove_old(folder)
        handle, name = tempfile.mkstemp(dir=folder, suffix=".new")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
            Path(name).replace(folder / f"{key}.json")
        except BaseException:  # an interrupt leaves nothing either
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
