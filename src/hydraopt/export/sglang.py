"""Load tasks of a bundle into a running SGLang server, which has no plug-ins for adapters.

Source of the interface: SGLang's documentation, "LoRA Serving", and its HTTP server: POST
/load_lora_adapter and /unload_lora_adapter, and GET /v1/models, which lists the base model and the
loaded adapters with their folders.
"""

from __future__ import annotations

import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Final

from hydraopt.adapters.bases import base_key
from hydraopt.bundle.task import TaskAdapter
from hydraopt.collection.opening import open_bundle
from hydraopt.errors import (
    BaseMismatchError,
    RemoteError,
    TaskNotFoundError,
    UsageError,
    explain,
)
from hydraopt.export.served import ServedBundle, folder_cache, write_served
from hydraopt.files.url import place_of

__all__ = ["SglangServer"]

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
