"""Resolve LoRA adapters of NVIDIA Dynamo at request time: ``hydra://TASK`` is a task of a bundle.

    export HYDRAOPT_BUNDLE=phone.hydra.safetensors PYTHONPATH=examples/dynamo
    export DYN_LORA_ENABLED=true DYN_LORA_RUNTIME_LOAD_ENABLED=true DYN_LORA_PATH=/var/cache/loras
    export DYN_LORA_ALLOWED_SCHEMES=hydra DYN_LORA_DOWNLOADER_PLUGIN=hydraopt_dynamo:HydraResolver

Start Dynamo's worker in this environment. HYDRAOPT_ANY_BASE=1 also serves tasks of a bundle that
names another base model than the worker. Source of the interface: dynamo/common/lora/runtime.py and
manager.py of ai-dynamo/dynamo, protocol version 2.
"""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial
from urllib.parse import unquote

from dynamo.common.lora.runtime import ResolveContext, ResolvedLoRA

from hydraopt.adapters import base_key
from hydraopt.bundle import TaskAdapter
from hydraopt.export.servants import FolderCache, ServedBundle, write_served
from hydraopt.files import place_of

SCHEME = "hydra"


class HydraResolver:
    """Dynamo's RuntimeLoRAResolverProtocol for the bundle in HYDRAOPT_BUNDLE."""

    protocol_version = 2
    schemes = frozenset({SCHEME})

    def __init__(self) -> None:
        self._bundle = ServedBundle(place_of(os.environ["HYDRAOPT_BUNDLE"]))
        self._any_base = os.environ.get("HYDRAOPT_ANY_BASE") == "1"

    async def resolve(self, *, source_uri: str, context: ResolveContext) -> ResolvedLoRA | None:
        """Return the folder of a task below Dynamo's cache, or None if there is no such task."""
        return await asyncio.to_thread(self._resolve, source_uri, context)

    def _resolve(self, source_uri: str, context: ResolveContext) -> ResolvedLoRA | None:
        task = self._bundle.task(unquote(source_uri.removeprefix(f"{SCHEME}://")))
        if task is None or not self._fits(task, context.base_model_name):
            return None
        # Without a bound: a path that was returned must stay as long as the worker runs.
        cache = FolderCache(context.cache_root / "hydraopt", sys.maxsize)
        folder = cache.folder(task, partial(write_served, self._bundle))
        size = sum(file.stat().st_size for file in folder.iterdir())
        return ResolvedLoRA(folder, source_revision=folder.parent.name, size_bytes=size)

    def _fits(self, task: TaskAdapter, base_model: str) -> bool:
        base = task.base_model
        return self._any_base or base is None or base_key(base) == base_key(base_model)
