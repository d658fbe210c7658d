"""LoRA resolver of vLLM: ``model="numbers-de"`` is served straight from a bundle.

vLLM loads :func:`register` through the entry point group ``vllm.general_plugins``. Settings:

HYDRAOPT_BUNDLE           the bundle: a file, a folder, or an address of either (s3://, https://).
                          Several paths are separated as in PATH; where one of them is an address,
                          by spaces. Unset: no resolver.
HYDRAOPT_VLLM_CACHE       where exported folders are kept; default $HYDRAOPT_CACHE/vllm, else
                          ~/.cache/hydraopt/vllm.
HYDRAOPT_VLLM_CACHE_SIZE  the most that these folders take; default 20GB.
HYDRAOPT_CACHE_SIZE       the most that bytes from addresses take, see hydraopt.files.cache.
HYDRAOPT_ANY_BASE         1: serve tasks whose bundle names another base than the server's model.

vLLM itself wants ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=1``, ``--enable-lora`` and a
``--max-lora-rank`` of at least the export's. Source of the interface: vLLM's documentation, "LoRA
Resolver Plugins".
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from hydraopt.adapters import base_key
from hydraopt.bundle import TaskAdapter, open_bundle
from hydraopt.errors import HydraoptError
from hydraopt.export.servants import FolderCache, ServedBundle, folder_cache, write_served
from hydraopt.files import AnyPath, place_of

NAME: Final = "hydraopt"

_log = logging.getLogger(__name__)


def register() -> None:
    """Register the resolver with vLLM, if HYDRAOPT_BUNDLE is set.

    Raises BundleFormatError or RemoteError for a bundle that cannot be opened, and UsageError for a
    size that is none, so that a server with a wrong setting does not start.
    """
    places = _places(os.environ.get("HYDRAOPT_BUNDLE", ""))
    if not places:
        return
    for place in places:
        open_bundle(place, tasks=())
    cache = folder_cache(os.environ)
    from vllm.lora.resolver import LoRAResolverRegistry

    # vLLM calls plug-ins in each of its processes, and in some more than once.
    if NAME not in LoRAResolverRegistry.get_supported_resolvers():
        any_base = os.environ.get("HYDRAOPT_ANY_BASE") == "1"
        resolver = make_resolver(places, cache, any_base=any_base)
        LoRAResolverRegistry.register_resolver(NAME, resolver)


def make_resolver(bundles: Sequence[AnyPath], cache: FolderCache, *, any_base: bool = False) -> Any:
    """Return an instance of vLLM's LoRAResolver for the tasks of these bundles, in their order.

    For each request of an adapter that vLLM has not loaded it is asked whether the bundle's files
    are still the same, so that a replaced file is seen; what is exported stays in ``cache`` under
    its content.
    """
    from vllm.lora.request import LoRARequest
    from vllm.lora.resolver import LoRAResolver

    served = [ServedBundle(place) for place in bundles]

    class HydraoptResolver(LoRAResolver):  # type: ignore[misc]  # vLLM is not installed here
        async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
            """Return the request for a task, or None if no bundle has it for that base."""
            found = await asyncio.to_thread(_find, base_model_name, lora_name)
            if found is None:
                return None
            task, folder = found
            # vLLM puts a number of its own in place of this one, which has to be positive.
            number = zlib.crc32(lora_name.encode()) % (2**31 - 1) + 1
            request = LoRARequest(lora_name=lora_name, lora_int_id=number, lora_path=str(folder))
            if hasattr(request, "is_3d_lora_weight"):
                # A server with --enable-mixed-moe-lora-format does not look at the tensors.
                stacked = any(x.layout == "experts" for x in task.modules.values())
                request.is_3d_lora_weight = stacked
            return request

    def _find(base_model: str, name: str) -> tuple[TaskAdapter, Path] | None:
        for bundle in served:
            try:
                task = bundle.task(name)
                if task is not None and (any_base or _fits(task, base_model)):
                    write = functools.partial(write_served, bundle)
                    return task, cache.folder(task, write)
            except (HydraoptError, OSError) as error:
                # To the client vLLM says that there is no such adapter; the reason is for the log.
                _log.error("task %r of %s cannot be served: %s", name, bundle.path, error)
        return None

    return HydraoptResolver()


def _fits(task: TaskAdapter, base_model: str) -> bool:
    base = task.base_model
    if base is None or base_key(base) == base_key(base_model):
        return True
    _log.warning(
        "task %r is of base %s, the server's is %s; HYDRAOPT_ANY_BASE=1 serves it nevertheless",
        task.name,
        base,
        base_model,
    )
    return False


def _places(setting: str) -> list[AnyPath]:
    """Return the bundles that the setting names."""
    # An address has the mark that paths are separated by.
    texts = setting.split() if "://" in setting else setting.split(os.pathsep)
    return [place_of(text) for text in texts if text]
