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

from hydraopt.basemodel.memory import JsonCache, key_of
from hydraopt.evaluate.results import TaskResult
from hydraopt.files.cache import cache_root
from hydraopt.files.reading import file_hash
from hydraopt.jsonvalues import from_json, to_json
from hydraopt.sources import source_hash

__all__ = ["Unfinished", "base_files"]

_DECIDE: Final = ("basemodel", "evaluate", "harm", "linalg", "probes")
"""Packages whose code decides what a request gives."""
_DAYS: Final = 14
"""Days without use after which an entry is deleted."""
_TEXTS: Final = frozenset({".json", ".txt", ".model", ".jinja"})
"""Suffixes of files beside the weights that determine how a model computes and how text is
tokenized."""


def base_files(base: Path) -> list[str]:
    """Return the hashes of a base model's files other than its weights."""
    files = sorted(x for x in base.iterdir() if x.suffix in _TEXTS and x.is_file())
    return [f"{file.name} {file_hash(file)}" for file in files]


class Unfinished:
    """An evaluation: results of its tasks that are done, and what is known of the others."""

    def __init__(self, asked: Mapping[str, Any]) -> None:
        """asked: everything that results depend on, but for the factors of single tasks."""
        root = cache_root() / "eval"
        _remove_old(root)
        self._folder = root / key_of([source_hash(*_DECIDE), json.dumps(asked, sort_keys=True)])
        self._done = JsonCache(self._folder / "done", in_process=False)

    def task(self, about: Sequence[str]) -> JsonCache:
        """Return the stored values of a task that is not done.

        about: its name and everything else that only this task depends on.
        """
        return JsonCache(self._folder / key_of(about), in_process=False)

    def entry(self, about: Sequence[str]) -> TaskResult | None:
        """Return the result of a task that is done; ``about`` begins with its name."""
        try:
            result = from_json(TaskResult, self._done.get(key_of(about)))
        except ValueError:
            return None
        return result if result.adapter == about[0] else None

    def finish(self, about: Sequence[str], result: TaskResult) -> None:
        """Delete the values of a task's rows when the task is done."""
        self._done.put(key_of(about), to_json(result))
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
