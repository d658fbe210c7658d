"""Tasks of a bundle as adapter folders for servers that load folders, SGLang among them.

The bundle may lie at an address. What tasks share is read and decoded once; each further task costs
its own bytes and one decoding. The folders take no more than a bound: what was not asked for
longest goes first.

Source of the interface: SGLang's documentation, "LoRA Serving", and its HTTP server: POST
/load_lora_adapter and /unload_lora_adapter, and GET /v1/models, which lists the base model and the
loaded adapters with their folders.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from hydraopt.adapters import base_key
from hydraopt.bundle import CONFIG, WEIGHTS, Following, TaskAdapter, dumps, open_bundle
from hydraopt.errors import (
    BaseMismatchError,
    RemoteError,
    TaskNotFoundError,
    UsageError,
    explain,
)
from hydraopt.export.vllm import export_vllm
from hydraopt.files import AnyPath, alone, bytes_of, cache_root, place_of

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
        dumps(task.config),
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


_SECONDS: Final = 120.0
"""Seconds to wait for an answer; a load waits for the requests that run."""


class SglangServer:
    """SGLang server that gets the tasks of a bundle as its adapters. Safe to use from threads.

    address: of the server, such as http://127.0.0.1:30000. It must see the exported folders under
        the same paths, so it runs on this machine or shares the folder HYDRAOPT_VLLM_CACHE.
    bundle: path or address, as for :func:`hydraopt.open_bundle`.
    key: the server's ``--api-key``.
    any_base: also load tasks of a bundle that names another base model.

    Raises UsageError for an address that is not HTTP, and the errors of opening the bundle.
    """

    def __init__(
        self,
        address: str,
        bundle: str | os.PathLike[str],
        *,
        key: str | None = None,
        any_base: bool = False,
    ) -> None:
        if not address.startswith(("http://", "https://")):
            raise UsageError(
                explain("not the address of a server", got=address, expected="http://")
            )
        self.address = address.rstrip("/")
        self._any_base = any_base
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._cache = folder_cache(os.environ)
        place = place_of(bundle)
        open_bundle(place, tasks=())
        self._bundle = ServedBundle(place)
        self._one = threading.Lock()

    def load(self, name: str) -> str:
        """Make sure that the server has the task as it is in the bundle now.

        The task is exported when first asked for. A task that changed in the bundle replaces the
        one that is loaded. SGLang unloads adapters itself (``--max-loaded-loras``).

        Returns the ``model`` of OpenAI requests for the task. Raises TaskNotFoundError;
        BaseMismatchError if the server has another base model; ExportError for a task that SGLang
        does not support; RemoteError if the server refuses or does not answer.
        """
        task = self._bundle.task(name)
        if task is None:
            raise TaskNotFoundError(explain("no such task", file=self._bundle.path, got=name))
        folder = str(self._cache.folder(task, lambda x, to: write_served(self._bundle, x, to)))
        with self._one:
            base, loaded = self._models()
            self._check_base(task, base)
            if loaded.get(name, folder) != folder:
                self._ask("/unload_lora_adapter", {"lora_name": name})
                del loaded[name]
            if name not in loaded:
                self._ask("/load_lora_adapter", {"lora_name": name, "lora_path": folder})
        return f"{base}:{name}"

    def _models(self) -> tuple[str, dict[str, str]]:
        """Return the name of the base model, and the folders of the loaded adapters by name."""
        path = "/v1/models"
        answer = self._ask(path)
        try:
            cards = answer["data"]
            base, *_ = [str(x["id"]) for x in cards if not x.get("parent")]
            return base, {str(x["id"]): str(x["root"]) for x in cards if x.get("parent")}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise self._refused(path, json.dumps(answer)[:200]) from error

    def _check_base(self, task: TaskAdapter, served: str) -> None:
        base = task.base_model
        if self._any_base or base is None or base_key(base) == base_key(served):
            return
        raise BaseMismatchError(
            explain(
                "the server has another base model",
                adapter=task.name,
                got=served,
                expected=base,
                do="If both are the same model, pass any_base=True",
            )
        )

    def _ask(self, path: str, body: Mapping[str, str] | None = None) -> Any:
        """Send a request and return the answer as JSON; a POST if there is a body."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **self._headers}
        request = urllib.request.Request(self.address + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                text = error.read(2000).decode("utf-8", "replace")
            raise self._refused(path, f"{error.code} {_reason(text)}") from error
        except (OSError, ValueError) as error:
            raise self._refused(path, str(error)) from error

    def _refused(self, path: str, got: str) -> RemoteError:
        what = "SGLang does not answer as it should"
        return RemoteError(explain(what, file=self.address + path, got=got))


def _reason(text: str) -> str:
    try:
        reply = json.loads(text)
    except ValueError:
        return text[:200]
    message = reply.get("error_message") if isinstance(reply, dict) else None
    return str(message) if message else text[:200]
