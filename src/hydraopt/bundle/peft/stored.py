"""Resolve what a bundle stores of an adapter's config, so that readers match no expression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hydraopt.adapters.keys import parse
from hydraopt.adapters.model import Adapter, LowRankModule
from hydraopt.adapters.peft import changed_base
from hydraopt.adapters.peftconfig import resolved_config
from hydraopt.adapters.tuners import tuner_named
from hydraopt.bundle.ranks import KeptRanks

__all__ = ["kept_ranks", "stored_config"]

_TUNERS: Final = ("ADALORA", "LOHA", "LOKR")


def kept_ranks(adapter: Adapter) -> KeptRanks | None:
    """Return the ranks and scales that an export of the adapter keeps; None if it keeps none.

    Adapters that change the base by their rank and scale (PiSSA and its kin) keep them, and so do
    AdaLoRA, LoHa and LoKr, whose other tensors depend on them.
    """
    tuner = tuner_named(adapter.config) if adapter.format == "peft" else "LORA"
    if tuner not in _TUNERS and (tuner != "LORA" or changed_base(adapter.config) is None):
        return None
    scales: dict[str, float] = {}
    for x in sorted(adapter.modules.values(), key=lambda x: x.group):
        scales.setdefault(_product(x), x.scale)
    return KeptRanks.of_modules(
        {path: (_stored_rank(x), scales[_product(x)]) for path, x in adapter.modules.items()}
    )


def _product(module: LowRankModule) -> str:
    """Return what has one scale: the product of two factors, or the module."""
    return module.path.partition("::")[0] if module.layout == "factor" else module.path


def _stored_rank(module: LowRankModule) -> int:
    """Return the rank in the config, which the groups of a convolution divide among them."""
    grouped = module.layout == "rows" and module.kind == "conv"
    return module.r * module.groups if grouped else module.r


def stored_config(adapter: Adapter) -> Mapping[str, Any]:
    """Return the config of a coded adapter as its bundle stores it.

    Settings that an export writes anew are left out, so that no reader has to match expressions.
    """
    if adapter.format == "peft" and tuner_named(adapter.config) != "LORA":
        return adapter.config
    keys = (parse(adapter.peft_key(path, "A")) or path for path in adapter.modules)
    paths = [x.partition("::")[0] if isinstance(x, str) else x.settings_path for x in keys]
    return resolved_config(adapter.config, paths, kept_ranks(adapter) is not None)
