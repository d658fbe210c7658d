"""Tensors that are not low-rank factors, under the names and in the shapes that PEFT uses."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from hydraopt.adapters.keys import names_adapter, peft_name
from hydraopt.adapters.model import ExtraKind
from hydraopt.adapters.rawtensor import RawTensor
from hydraopt.adapters.tuners import changing
from hydraopt.bundle.peft.below import left_to_base
from hydraopt.bundle.peft.tensors import rounded
from hydraopt.bundle.task import Described, TaskAdapter
from hydraopt.errors import ExportError, explain

__all__ = ["changing_extras", "check_extras", "exported_extras", "folded_extras"]

# How kohya and MLX end the name of a DoRA magnitude.
_MAGNITUDE: Final = re.compile(r"(.+)\.(?:m|dora_scale|lora_magnitude_vector)")


def changing_extras(
    task: TaskAdapter, base: Mapping[str, RawTensor] | None = None
) -> dict[str, ExtraKind]:
    """Return the kind of each extra that may change the base, by key.

    :func:`hydraopt.bundle.peft.below.left_to_base` says which weights of the base are none.
    base: tensors of the base model; default those that the bundle was given.
    """
    left = left_to_base(task, task.bundle.base if base is None else base)
    kinds = {key: kind for key, kind in task.extra_kinds.items() if key not in left}
    return changing(kinds, task.config)


def exported_extras(
    task: TaskAdapter, *, unfolded: bool, base: Mapping[str, RawTensor] | None = None
) -> dict[str, RawTensor]:
    """Return a task's extras by a LoRA's PEFT key, bytes as they were.

    Those of :func:`changing_extras`, which takes ``base``, in their order.
    unfolded: the scale stays in the config; else biases of lora_B are multiplied by theirs.
    Raises ExportError for a tensor that PEFT has no place for.
    """
    kinds, scales, extras = changing_extras(task, base), _bias_scales(task), task.extras
    result: dict[str, RawTensor] = {}
    for key, new in _placed(task, kinds, scales, unfolded).items():
        tensor = extras[key]
        if kinds[key] == "lora_bias" and not unfolded:
            tensor = _scaled(task, tensor, scales[key])
        if kinds[key] == "dora_magnitude" and task.entry.format != "peft":
            tensor = replace(tensor, shape=(math.prod(tensor.shape),))
        result[new] = replace(tensor, name=new)
    return result


def check_extras(task: TaskAdapter, *, unfolded: bool) -> list[str]:
    """Return the names that a coded task's extras get in an export; no number is read.

    Raises ExportError as :func:`exported_extras`.
    """
    kinds = changing_extras(task, {})
    return list(_placed(task, kinds, _bias_scales(task), unfolded).values())


def _placed(
    task: TaskAdapter,
    kinds: Mapping[str, ExtraKind],
    scales: Mapping[str, float],
    unfolded: bool,
) -> dict[str, str]:
    """Return PEFT's name of each extra by its own; arguments as in :func:`exported_extras`."""
    extras, taken, result = task.described, set[str](), {}
    named = names_adapter(extras.keys())
    for key, kind in kinds.items():
        if kind == "lora_bias" and not unfolded:
            _check_scaled(task, key, extras[key], scales)
        plain = key
        if task.entry.format != "peft":
            if kind == "dora_magnitude":
                plain = _magnitude_name(task, key, extras[key])
            elif kind != "lora_bias" and task.entry.format != "loralib":
                raise _no_place(
                    task, key, f"{task.entry.format} tensors of this kind have no match"
                )
        result[key] = new = peft_name(plain, named)
        if new in taken:
            raise _no_place(task, key, f"another tensor is named {new!r} there")
        taken.add(new)
    return result


def folded_extras(task: TaskAdapter) -> dict[str, RawTensor]:
    """Return the extras of :func:`changing_extras` under their own keys.

    Biases of lora_B are multiplied by the scale of their module.
    """
    scales, tensors = _bias_scales(task), task.extras
    result = {}
    for key, kind in changing_extras(task).items():
        result[key] = tensors[key]
        if kind == "lora_bias":
            _check_scaled(task, key, tensors[key], scales)
            result[key] = _scaled(task, tensors[key], scales[key])
    return result


def _check_scaled(
    task: TaskAdapter, key: str, tensor: Described, scales: Mapping[str, float]
) -> None:
    if key not in scales:
        raise _no_place(task, key, "the scale of its module is not known")
    if scales[key] != 1 and "F" not in tensor.dtype:
        raise _no_place(task, key, f"a {tensor.dtype} tensor cannot be multiplied by a scale")


def _bias_scales(task: TaskAdapter) -> dict[str, float]:
    """Return the scale of each lora_bias, by its key."""
    if task.original is None:
        return dict(task.entry.bias_scales)
    scales = {x.b.name: x.scale for x in task.original.modules.values()}
    weights = {key: key.removesuffix("bias") + "weight" for key in task.extras}
    return {key: scales[weight] for key, weight in weights.items() if weight in scales}


def _scaled(task: TaskAdapter, tensor: RawTensor, scale: float) -> RawTensor:
    """Return the tensor times a scale, in its own dtype or a wider one where numbers would not fit.

    With a scale of 1 the tensor is returned untouched.
    """
    if scale == 1:
        return tensor
    flat = replace(tensor, shape=(math.prod(tensor.shape),))
    with np.errstate(over="ignore", invalid="ignore"):
        values = flat.numpy().astype(np.float64) * scale
    # An 8-bit float times a scale may be none.
    dtype = "BF16" if tensor.dtype.startswith("F8") else tensor.dtype
    finite = np.isfinite(values)
    try:
        scaled = rounded(tensor.name, values, dtype, task.name, finite=finite)
    except ExportError:
        scaled = rounded(tensor.name, values, "F32", task.name, finite=finite)
    return replace(scaled, shape=tensor.shape)


def _magnitude_name(task: TaskAdapter, key: str, tensor: Described) -> str:
    """Return the name of a DoRA magnitude that PEFT accepts for a linear layer.

    PEFT requires one number per output.
    """
    match = _MAGNITUDE.fullmatch(key)
    module = task.modules.get(match[1]) if match else None
    outputs = math.prod(tensor.shape)
    # A kohya magnitude may be one for each input, (1, n), which is another function.
    flat = len(tensor.shape) == 1 or tensor.shape == (outputs, 1)
    fits = module is not None and module.kind == "linear" and outputs == module.m and flat
    if match is None or not fits:
        raise _no_place(task, key, f"a magnitude of shape {tensor.shape}")
    return f"{match[1]}.lora_magnitude_vector"


def _no_place(task: TaskAdapter, key: str, why: str) -> ExportError:
    return ExportError(
        explain(
            f"PEFT has no place for tensor {key!r}: {why}",
            adapter=task.name,
            do="Read it from TaskAdapter.extras instead, or leave it out before merging",
        )
    )
