"""Give a lossless task its modules back, and a config the ranks that its exports keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from hydraopt.adapters import (
    Adapter,
    LowRankModule,
    RawTensor,
    ScaleRule,
    TensorFile,
    changed_base,
    parse,
    read_again,
    resolved_config,
    tuner_named,
)
from hydraopt.bundle.entries import KeptRanks
from hydraopt.bundle.manifest import TaskEntry
from hydraopt.files import AnyPath
from hydraopt.notes import stored


def adapter_of(
    entry: TaskEntry, config: Mapping[str, Any], tensors: Mapping[str, RawTensor], path: AnyPath
) -> Adapter:
    """Parse the adapter of a lossless task with the reader of its format.

    Raises AdapterFormatError where that reader does.
    """
    for tensor in tensors.values():
        tensor.check_shape()
    file = TensorFile(path, tensors, entry.metadata)
    parsed = read_again(entry.format, file, config)
    modules = parsed.modules
    if entry.format != "peft" and modules:
        # An alpha that the caller gave once is in no file, but in the config made from it.
        rule = ScaleRule.from_config(config, path)
        modules = _rescaled(modules, rule)
    return Adapter(
        name=entry.name,
        source=path,
        format=entry.format,
        base_model=entry.base_model,
        config=config,
        modules={x.path: x for x in sorted(modules, key=lambda x: x.path)},
        extras={key: file[key] for key in parsed.extras},
        tensors=file,
        extra_kinds={key: parsed.extras[key] for key in file if key in parsed.extras},
        notes=stored(entry.name, entry.notes),
        peft_keys=parsed.keys,
    )


def _rescaled(modules: Iterable[LowRankModule], rule: ScaleRule) -> list[LowRankModule]:
    """Return the modules with the rule's scales; a product gets the scale of its first factor."""
    result, products = [], set()
    for x in sorted(modules, key=lambda x: x.group):
        stem = x.path.partition("::")[0]
        later = x.layout == "factor" and stem in products
        products.add(stem)
        result.append(replace(x, scale=1.0 if later else rule.scale(stem)))
    return result


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
