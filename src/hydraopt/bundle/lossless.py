"""Building an Adapter from tensors in memory, which gives a lossless task its modules back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from hydraopt.adapters.formats import read_again
from hydraopt.adapters.model import Adapter, LowRankModule
from hydraopt.adapters.rawtensor import RawTensor, TensorFile
from hydraopt.adapters.scale import ScaleRule
from hydraopt.bundle.spec import TaskEntry
from hydraopt.files.url import AnyPath
from hydraopt.notes import stored

__all__ = ["adapter_of"]


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
