"""Checks before a merge that every adapter can be exported again; refuses the others."""

from __future__ import annotations

import numpy as np

from hydraopt.adapters import Adapter
from hydraopt.adapters.keys import PREFIX, extra_kind, names_adapter, parse, peft_name
from hydraopt.adapters.tuners import changing, tuner_named
from hydraopt.errors import AdapterFormatError, NumericalError, explain

__all__ = ["bias_scales", "check_returnable"]


def check_returnable(adapter: Adapter, *, lossless: bool) -> None:
    """Raise AdapterFormatError, naming adapter and module or tensor, for what cannot be exported.

    lossless: the tensors are kept as they are; NumericalError for NaN and infinity among them,
    which what measures the bundle later would stop at.
    """
    for module in adapter.modules.values():
        fused = module.layout == "rows" and module.kind != "conv"
        if fused and not isinstance(adapter.config.get("enable_lora"), list):
            raise AdapterFormatError(
                explain(
                    "the slots of a fused projection are not stated",
                    adapter=adapter.name,
                    file=adapter.source,
                    module=module.path,
                    got=f"{module.groups} groups",
                    do='Put an adapter_config.json beside the file, such as {"enable_lora": '
                    "[true, false, true]} for q and v of three",
                )
            )
    if adapter.format == "loralib":
        # These come back as PEFT folders, in which such names mean something else.
        for key in adapter.extras:
            if parse(PREFIX + key) or extra_kind(PREFIX + key, "none", ()) != "saved":
                raise AdapterFormatError(
                    explain(
                        f"tensor {key[:200]!r} beside loralib's has a name of another method",
                        adapter=adapter.name,
                        file=adapter.source,
                        do="Leave it out of the file, or rename it",
                    )
                )
    _check_biases(adapter)
    if adapter.format == "loralib" or (adapter.format == "peft" and not lossless):
        _check_distinct(adapter)
    if lossless:
        adapter.check_finite()
    elif adapter.format == "diffusers" and adapter.extras:
        for path in adapter.modules:
            if ":" not in path and "." not in path:
                raise AdapterFormatError(
                    explain(
                        "tensors beside modules that have no component",
                        adapter=adapter.name,
                        file=adapter.source,
                        module=path,
                        got=next(iter(adapter.extras)),
                        do="Merge it with --lossless, or leave out the other tensors",
                    )
                )


def bias_scales(adapter: Adapter) -> dict[str, float]:
    """Return the scale of the module that each ``lora_bias`` tensor belongs to, by its key."""
    owner = {x.b.name.removesuffix(".weight") + ".bias": x.scale for x in adapter.modules.values()}
    return {
        key: owner[key]
        for key, kind in adapter.extra_kinds.items()
        if kind == "lora_bias" and key in owner
    }


def _check_distinct(adapter: Adapter) -> None:
    """Raise AdapterFormatError if two tensors would have one name in a PEFT adapter."""
    taken: dict[str, str] = {}
    lora = tuner_named(adapter.config) == "LORA"
    if lora:
        taken |= {key: path for (path, _), key in adapter.peft_keys.items()}
    named = names_adapter(adapter.extras.keys())
    for key in changing(adapter.extra_kinds, adapter.config):
        name = peft_name(key, named) if lora else key
        if name in taken:
            raise AdapterFormatError(
                explain(
                    "two tensors have the same name in PEFT",
                    adapter=adapter.name,
                    file=adapter.source,
                    got=f"{taken[name][:200]!r} and {key[:200]!r}",
                    do="Leave one of them out of the file",
                )
            )
        taken[name] = key


def _check_biases(adapter: Adapter) -> None:
    """Raise NumericalError for a bias of lora_B that overflows float32 once scaled."""
    for key, scale in bias_scales(adapter).items():
        values = adapter.extras[key].numpy().astype(np.float64)
        largest = float(np.abs(values[np.isfinite(values)]).max(initial=0)) * abs(scale)
        if largest > float(np.finfo(np.float32).max):
            raise NumericalError(
                explain(
                    "a bias of lora_B overflows float32 once scaled",
                    adapter=adapter.name,
                    file=adapter.source,
                    module=key,
                    got=f"{largest:.3g}",
                    do="This adapter's training diverged or its file is damaged; leave it out",
                )
            )
