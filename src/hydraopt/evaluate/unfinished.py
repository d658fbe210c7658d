"""Store of an evaluation's measurements, from which an interrupted evaluation continues.

It is in ``$HYDRAOPT_CACHE/eval`` under a hash of the whole request, and is deleted when the
evaluation is done. So no result is ever reused from a complete evaluation. Entries that are not
used again are deleted after 14 days, when another evaluation begins.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from hydraopt.basemodel.encoding import Encoded
from hydraopt.basemodel.memory import Memory, key_of
from hydraopt.files.cache import cache_root
from hydraopt.files.reading import file_hash

__all__ = ["Kept", "Unfinished", "base_files"]

_METHOD: Final = "3"
"""Version; changed when the same request would give other numbers."""
_DAYS: Final = 14
"""Days without use after which an entry is deleted."""
_TEXTS: Final = frozenset({".json", ".txt", ".model", ".jinja"})
"""Suffixes of files beside the weights that determine how a model computes and how text is
tokenized."""


def base_files(base: Path) -> list[str]:
    """Hashes of a base model's files, but for its weights."""
    files = sorted(x for x in base.iterdir() if x.suffix in _TEXTS and x.is_file())
    return [f"{file.name} {file_hash(file)}" for file in files]


class Kept:
    """JSON values of one task, by the rows that they are of."""

    def __init__(self, folder: Path) -> None:
        self._memory = Memory(folder, in_process=False)

    def get(self, what: str, items: Sequence[Encoded] = ()) -> Any:
        """Return the stored value for some rows, or for all of them; None if there is none."""
        return self._memory.get(_key(what, items))

    def put(self, what: str, value: Any, items: Sequence[Encoded] = ()) -> None:
        """Keep it, if there is room."""
        self._memory.put(_key(what, items), value)

    def forget(self) -> None:
        """Delete all values."""
        self._memory.forget()


def _key(what: str, items: Sequence[Encoded]) -> str:
    return key_of([what, *(f"{item.prompt} {item.target}" for item in items)])


class Unfinished:
    """An evaluation: entries of its tasks that are done, and what is known of the others."""

    def __init__(self, asked: Mapping[str, Any]) -> None:
        """asked: everything that results depend on, but for the factors of single tasks."""
        root = cache_root() / "eval"
        _remove_old(root)
        self._folder = root / key_of([_METHOD, json.dumps(asked, sort_keys=True)])
        self._done = Memory(self._folder / "done", in_process=False)

    def task(self, about: Sequence[str]) -> Kept:
        """Return the stored values of a task that is not done.

        about: its name and everything else that only this task depends on.
        """
        return Kept(self._folder / key_of(about))

    def entry(self, about: Sequence[str]) -> dict[str, Any] | None:
        """Return the entry of a task that is done; ``about`` begins with its name."""
        entry = self._done.get(key_of(about))
        whole = isinstance(entry, dict) and entry.get("adapter") == about[0]
        return entry if whole else None

    def finish(self, about: Sequence[str], entry: Mapping[str, Any]) -> None:
        """Delete the values of a task's rows when the task is done."""
        self._done.put(key_of(about), entry)
        self.task(about).forget()

    def forget(self) -> None:
        """Delete the whole store when the evaluation is done."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _remove_old(root: Path) -> None:
    """Delete evaluations in which nothing was stored for _DAYS."""
    before = time.time() - _DAYS * 86_400
    with suppress(OSError):
        for folder in root.iterdir():
            times = [x.stat().st_mtime for x in (folder, *folder.iterdir())]
            if max(times) < before:
                shutil.rmtree(folder, ignore_errors=True)
