"""Tasks of a bundle as adapter folders on this machine, for servers that load folders.

The bundle may lie at an address. What tasks share is read and decoded once; each further task costs
its own bytes and one decoding. The folders take no more than a bound: what was not asked for
longest goes first.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Final

from hydraopt.bundle import strictjson
from hydraopt.bundle.peft.folder import CONFIG, WEIGHTS
from hydraopt.bundle.task import TaskAdapter
from hydraopt.collection.following import Following
from hydraopt.errors import TaskNotFoundError
from hydraopt.export.vllm import export_vllm
from hydraopt.files.alone import alone
from hydraopt.files.cache import bytes_of, cache_root
from hydraopt.files.url import AnyPath

__all__ = ["FolderCache", "ServedBundle", "folder_cache", "write_served"]

_JUST_NOW: Final = 60.0
"""Seconds for which a folder is kept after it was handed out, because its server may not have read
it."""
_MOST: Final = "20GB"
_DIGITS: Final = 16
_KEY: Final = re.compile(rf"[0-9a-f]{{{_DIGITS}}}")
_LOCK: Final = ".lock"

Write = Callable[[TaskAdapter, Path], None]


class ServedBundle:
    """Bundle that is asked for one task at a time, with its files as they are at that moment.

    Safe to use from several threads.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path
        self._one = threading.Lock()
        self._bundle = Following(path)

    def task(self, name: str) -> TaskAdapter | None:
        """Return the task of that name; None if there is none. Raises as :func:`open_bundle`."""
        with self._one:
            try:
                return self._bundle.tasks([name])[name]
            except TaskNotFoundError:
                return None

    def decode_core(self, task: TaskAdapter) -> None:
        """Decode the shared core for this task and for later ones."""
        with self._one:
            last = self._bundle.last
            if last is not None:
                task.bundle.take_core(last)
            task.bundle.decode_core()
            if last is not None:
                last.take_core(task.bundle)


def content_key(task: TaskAdapter) -> str:
    """Return the folder name of a task, which depends on everything that affects the content."""
    entry, manifest = task.entry, task.manifest
    streams = [] if entry.content is None else [f"task/{entry.content}"]
    names = ["shared", *streams, *(f"carried/{i}" for i in entry.carried)]
    about = [
        version("hydraopt"),  # another version may write it otherwise
        [task.contents.checksum(name) for name in names],
        repr(entry.alone()),
        repr([manifest.modules[i] for i in entry.modules]),
        repr([manifest.tensors[i] for i in entry.tensors]),
        repr([manifest.blobs[i] for i in entry.carried]),
        # Module names of other tasks decide how this one's are named.
        repr([module.path for module in manifest.modules]),
        strictjson.dumps(task.config),
        task.base_model,
    ]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:_DIGITS]


class FolderCache:
    """Folders of tasks under their content.

    most: largest number of bytes of all; folders handed out within a minute stay. Other files in
    ``root`` are neither counted nor touched.
    """

    def __init__(self, root: Path, most: int) -> None:
        self.root = root
        self.most = most

    def folder(self, task: TaskAdapter, write: Write) -> Path:
        """Return the folder of a task, written first if it is not there yet.

        Raises what ``write`` raises; OSError.
        """
        home = self.root / content_key(task)
        folder = home / task.name
        with suppress(OSError):  # before it is looked at: whoever trims leaves it from now on
            os.utime(home)
        if not _is_whole(folder):
            try:
                write(task, folder)
            except OSError:
                # Another process of the server may have finished the same folder first.
                if not _is_whole(folder):
                    raise
            self._trim(home)
        with suppress(OSError):
            os.utime(home)
        return folder

    def _homes(self) -> list[tuple[float, int, Path]]:
        """Return (time of last use, bytes, folder) of each."""
        homes = []
        with suppress(OSError):
            for home in self.root.iterdir():
                with suppress(OSError):
                    if _is_own(home):
                        files = [x.stat().st_size for x in home.rglob("*") if x.is_file()]
                        homes.append((home.stat().st_mtime, sum(files), home))
        return homes

    def _trim(self, new: Path) -> None:
        with suppress(OSError), alone(self.root / _LOCK):
            homes = sorted(self._homes())
            kept, border = sum(size for _, size, _ in homes), time.time() - _JUST_NOW
            for used, size, home in homes:
                if kept <= self.most or used > border:
                    break
                if home != new and not self._is_handed_out(home, border):
                    shutil.rmtree(home, ignore_errors=True)
                    kept -= size

    def _is_handed_out(self, home: Path, border: float) -> bool:
        """Return whether the folder was requested after its time was read."""
        with suppress(OSError):
            return home.stat().st_mtime > border
        return False


def folder_cache(environment: Mapping[str, str]) -> FolderCache:
    """Return the cache that HYDRAOPT_VLLM_CACHE and HYDRAOPT_VLLM_CACHE_SIZE describe.

    Raises UsageError for a size that is none.
    """
    own = environment.get("HYDRAOPT_VLLM_CACHE")
    name = "HYDRAOPT_VLLM_CACHE_SIZE"
    most = bytes_of(environment.get(name) or _MOST, name)
    return FolderCache(Path(own) if own else cache_root(environment) / "vllm", most)


def write_served(bundle: ServedBundle, task: TaskAdapter, folder: Path) -> None:
    """Export a task of a bundle as the folder that vLLM, LoRAX and SGLang load."""
    bundle.decode_core(task)
    export_vllm(task, folder, overwrite=True)


def _is_own(home: Path) -> bool:
    """Return whether the cache created this folder; a user may name a folder with other content.

    Beside the tasks' folders there may be hidden ones, of exports that were killed.
    """
    if not _KEY.fullmatch(home.name) or home.is_symlink() or not home.is_dir():
        return False
    within = list(home.iterdir())
    adapters = (x for x in within if not x.name.startswith("."))
    return all(x.is_dir() for x in within) and all(_is_whole(x) for x in adapters)


def _is_whole(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()
