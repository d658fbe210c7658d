"""What was measured with a base model, kept on disk: it takes minutes, and is asked for again.

Entries are small JSON files named by the SHA-256 of everything that they depend on, in a folder
under ``$HYDRAOPT_CACHE`` (default ``~/.cache/hydraopt``). A run that was stopped finds there what
it had measured. Nothing depends on the folder: where it cannot be written, nothing is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from hydraopt.files.reading import MOST_CONFIG, file_hash, read_regular

__all__ = ["Memory", "base_hash", "cache_folder", "key_of"]

_WEIGHTS: Final = ("*.safetensors", "*.bin")


def cache_folder(kind: str = "harm") -> Path:
    """Where measurements of a kind are kept; not created here."""
    root = os.environ.get("HYDRAOPT_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "hydraopt") / kind


def key_of(parts: Iterable[bytes | str]) -> str:
    """One hash of many parts; their borders count."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def base_hash(base: str | Path, model: Any) -> str | None:
    """Of a folder's weight files and config, or a hub's commit; None if neither is there."""
    folder = Path(base)
    if not folder.is_dir():
        commit = getattr(model.config, "_commit_hash", None)
        return f"{base}@{commit}" if commit else None
    files = sorted({*(f for x in _WEIGHTS for f in folder.glob(x)), folder / "config.json"})
    return key_of(f"{file.name} {file_hash(file)}" for file in files)


class Memory:
    """JSON values by key. folder: None keeps nothing beyond the process."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._known: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        """What was put under the key; None if nothing was, or what is there cannot be read."""
        if key not in self._known and self._folder is not None:
            with suppress(OSError, ValueError, RecursionError):
                data = read_regular(self._folder / f"{key}.json", MOST_CONFIG)
                self._known[key] = json.loads(data)
        return self._known.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep a value; on disk as well, in one step, if there is room."""
        self._known[key] = value
        if self._folder is None:
            return
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._folder, suffix=".new")
            with os.fdopen(handle, "w") as file:
                json.dump(value, file)
            Path(name).replace(self._folder / f"{key}.json")

    def forget(self) -> None:
        """Remove what was kept, and the folder."""
        self._known.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
