"""From an adapter to its manifest entry: everything that does not depend on how it is coded."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from hydraopt.adapters.model import Adapter
from hydraopt.bundle.spec import ModuleEntry, Side, TaskEntry, default_key

__all__ = ["task_entry"]

_BIAS: Final = re.compile(r"\.lora_B(?:\.[^.]+)?\.bias$")


def task_entry(
    adapter: Adapter,
    modules: Sequence[ModuleEntry],
    *,
    config: int,
    content: int | None = None,
    errors: Mapping[str, float] | None = None,
    error: float = 0.0,
    carried: Sequence[int] = (),
    carried_keys: frozenset[str] = frozenset(),
    lossless: bool = False,
) -> TaskEntry:
    """The entry of ``adapter`` in a manifest whose modules are ``modules``.

    errors: relative error by module path; missing ones count as 0.  carried_keys: the keys that the
    carried blobs hold, by default those of the adapter's extras.
    """
    errors = errors or {}
    keys = carried_keys or frozenset(adapter.tensors if lossless else adapter.extras)
    present = [(i, x) for i, x in enumerate(modules) if x.path in adapter.modules]
    exceptions: dict[tuple[str, str], str] = {}
    sides: tuple[Side, ...] = ("A", "B")
    for _, module in present:
        for side in sides:
            key = adapter.peft_keys.get((module.path, side))
            if key is not None and key != default_key(module, side):
                exceptions[module.path, side] = key
    return TaskEntry(
        name=adapter.name,
        config=config,
        content=content,
        format=adapter.format,
        base_model=adapter.base_model,
        numbers=adapter.numbers,
        dtype=_dominant_dtype(adapter),
        lossless=lossless,
        modules=tuple(i for i, _ in present),
        errors=tuple(errors.get(x.path, 0.0) for _, x in present),
        error=error,
        carried=tuple(sorted(carried)),
        keys=exceptions,
        bias_scales=_bias_scales(adapter),
        extra_kinds={key: kind for key, kind in adapter.extra_kinds.items() if key in keys},
        notes=adapter.notes,
        metadata=dict(getattr(adapter.tensors, "metadata", {})) if lossless else {},
    )


def _dominant_dtype(adapter: Adapter) -> str:
    counts: Counter[str] = Counter()
    for module in adapter.modules.values():
        for tensor in (module.a, module.b):
            if tensor.is_float:
                counts[tensor.dtype] += math.prod(tensor.shape)
    # Of equally frequent ones the first by name, whatever the order of the modules.
    return min(counts, key=lambda x: (-counts[x], x)) if counts else "F32"


def _bias_scales(adapter: Adapter) -> dict[str, float]:
    """The scale of the module that each ``lora_bias`` belongs to."""
    scales = {module.b.name: module.scale for module in adapter.modules.values()}
    return {
        key: scales[weight]
        for key, kind in adapter.extra_kinds.items()
        if kind == "lora_bias"
        and (weight := key.removesuffix("bias") + "weight") in scales
        and _BIAS.search(key)
    }
