"""A vLLM LoRA resolver: ``model="numbers-de"`` is served straight from a bundle.

vLLM loads :func:`register` through the entry point group ``vllm.general_plugins``. Settings:

HYDRAOPT_BUNDLE      the bundle; several are separated as paths in PATH are. Unset: no resolver.
HYDRAOPT_VLLM_CACHE  where exported folders are kept; default $HYDRAOPT_CACHE/vllm, else
                     ~/.cache/hydraopt/vllm.
HYDRAOPT_ANY_BASE    1: serve tasks whose bundle names another base than the server's model.

vLLM itself wants ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=1``, ``--enable-lora`` and a
``--max-lora-rank`` of at least the export's. Source of the interface: vLLM's documentation, "LoRA
Resolver Plugins".
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from hydraopt.adapters.bases import base_key
from hydraopt.bundle.reader import Bundle, open_bundle
from hydraopt.bundle.restore.peft import CONFIG, WEIGHTS
from hydraopt.errors import HydraoptError
from hydraopt.export.vllm import export_vllm

__all__ = ["NAME", "cached_task", "make_resolver", "register"]

NAME: Final = "hydraopt"

_log = logging.getLogger("hydraopt.vllm")


def register() -> None:
    """Register the resolver with vLLM, if HYDRAOPT_BUNDLE is set.

    Raises BundleFormatError for a bundle that cannot be opened, so that a server with a wrong
    setting does not start.
    """
    setting = os.environ.get("HYDRAOPT_BUNDLE", "")
    paths = [Path(x) for x in setting.split(os.pathsep) if x]
    if not paths:
        return
    for path in paths:
        open_bundle(path)
    from vllm.lora.resolver import LoRAResolverRegistry

    # vLLM calls plug-ins in each of its processes, and in some more than once.
    if NAME not in LoRAResolverRegistry.get_supported_resolvers():
        any_base = os.environ.get("HYDRAOPT_ANY_BASE") == "1"
        resolver = make_resolver(paths, _cache_folder(os.environ), any_base=any_base)
        LoRAResolverRegistry.register_resolver(NAME, resolver)


def make_resolver(bundles: Sequence[Path], cache: Path, *, any_base: bool = False) -> Any:
    """An instance of vLLM's LoRAResolver for the tasks of those bundles, the first that has one.

    Bundles are opened anew for each request of an adapter that vLLM has not loaded, so that a
    replaced file is seen; what is exported stays in ``cache`` under the bundle's checksum.
    """
    from vllm.lora.request import LoRARequest
    from vllm.lora.resolver import LoRAResolver

    class HydraoptResolver(LoRAResolver):  # type: ignore[misc]  # vLLM is not installed here
        async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
            """The request for a task, or None if no bundle has it for that base."""
            folder = await asyncio.to_thread(_find, base_model_name, lora_name)
            if folder is None:
                return None
            # vLLM puts a number of its own in place of this one, which has to be positive.
            number = zlib.crc32(lora_name.encode()) % (2**31 - 1) + 1
            return LoRARequest(lora_name=lora_name, lora_int_id=number, lora_path=str(folder))

    def _find(base_model: str, name: str) -> Path | None:
        for path in bundles:
            try:
                bundle = open_bundle(path)
                if name in bundle and (any_base or _fits(bundle, name, base_model)):
                    return cached_task(bundle, name, cache)
            except (HydraoptError, OSError) as error:
                # To the client vLLM says that there is no such adapter; the reason is for the log.
                _log.error("task %r of %s cannot be served: %s", name, path, error)
        return None

    return HydraoptResolver()


def cached_task(bundle: Bundle, name: str, cache: Path) -> Path:
    """The folder of a task in the cache, exported first if it is not there yet.

    Raises TaskNotFoundError, ExportError for a task that vLLM cannot hold, OSError.
    """
    # The header holds a checksum of every tensor, so it stands for the content of the file.
    # Another version may write it otherwise.
    about = json.dumps([version("hydraopt"), dict(bundle.metadata)], sort_keys=True).encode()
    folder = cache / hashlib.sha256(about).hexdigest()[:16] / name
    if not _whole(folder):
        try:
            export_vllm(bundle[name], folder, overwrite=True)
        except OSError:
            # Another process of the server may have finished the same folder first.
            if not _whole(folder):
                raise
    return folder


def _whole(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def _fits(bundle: Bundle, name: str, base_model: str) -> bool:
    base = bundle[name].base_model
    if base is None or base_key(base) == base_key(base_model):
        return True
    _log.warning(
        "task %r is of base %s, the server's is %s; HYDRAOPT_ANY_BASE=1 serves it nevertheless",
        name,
        base,
        base_model,
    )
    return False


def _cache_folder(environment: Mapping[str, str]) -> Path:
    own = environment.get("HYDRAOPT_VLLM_CACHE")
    if own:
        return Path(own)
    common = environment.get("HYDRAOPT_CACHE")
    return (Path(common) if common else Path.home() / ".cache" / "hydraopt") / "vllm"
