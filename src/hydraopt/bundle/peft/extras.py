"""Tensors that are not low-rank factors, under the names and in the shapes that PEFT uses.

PEFT never trains them, so a copy of the base's own weight carries nothing: formats without a place
for it lose nothing. A copy that was coded with a loss must not take the place of the base's own
weight, which is exact; where embeddings are tied, PEFT would also change the input embedding.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from hydraopt.adapters import (
    PREFIX,
    ExtraKind,
    RawTensor,
    changing,
    names_adapter,
    open_base,
    peft_name,
)
from hydraopt.bundle.task import Described, TaskAdapter
from hydraopt.bundle.tensors import DENSE_DTYPES, HEADS, TensorEntry, nearest, rounded
from hydraopt.errors import ExportError, UsageError, explain

Base = str | os.PathLike[str] | Mapping[str, RawTensor] | None

_END: Final = ".base_layer.weight"
# What rounding a coded tensor to its own type adds to its error.
_ROUNDING: Final = {"F16": 2.0**-11, "BF16": 2.0**-8}
_GRID: Final = 1.05
"""Factor between an error and the one that the manifest may state, on its grid of 4.4 %."""


def layer_below(task: TaskAdapter, key: str) -> str | None:
    """Return the path of the module whose layer has this extra as its weight, if there is one."""
    path = _path(key)
    return path if key.endswith(_END) and path in task.modules else None


def rounded_copy(entry: TensorEntry) -> bool:
    """Return True if a coded tensor is such a copy, with a loss and without a reference."""
    return entry.kind == "saved" and entry.base is None and entry.key.endswith(_END)


def left_to_base(task: TaskAdapter, base: Mapping[str, RawTensor] | None) -> frozenset[str]:
    """Return the keys of coded copies for which exports leave the weight to the base.

    base: tensors of the base model. A copy that differs from them by more than its error stays,
        because the adapter was trained on another weight. Without them no copy stays.
    """
    entries = (task.manifest.tensors[i] for i in task.entry.tensors)
    copies = [entry.key for entry in entries if rounded_copy(entry)]
    if base:
        copies = [key for key in copies if is_of_base(task, key, base, _path(key))]
    return frozenset(copies)


def _path(key: str) -> str:
    return key.removeprefix(PREFIX).removesuffix(_END)


def weights_at_hand(base: Base) -> Mapping[str, RawTensor]:
    """Return the tensors of a base model's folder, or those given; none if none can be read."""
    if isinstance(base, Mapping):
        return base
    if base is not None and Path(base).is_dir():
        with suppress(UsageError):
            return open_base(base) or {}
    return {}


def is_of_base(
    task: TaskAdapter, key: str, base: Mapping[str, RawTensor], path: str | None = None
) -> bool:
    """Return True if an extra equals the base's weight of the layer, as far as the bundle holds it.

    key: an extra of :func:`layer_below`.
    base: tensors by their names in the base's files, in which the path may lack its first part.
    path: path of the module there, if it differs.

    Either tensor may be rounded to the dtype of the other, because the model may have been loaded
    so for training.
    """
    name = f"{path or layer_below(task, key)}.weight"
    heads = sorted(f"{head}.weight" for head in HEADS)
    names = (name, name.partition(".")[2], *(heads if name in heads else ()))
    theirs = next((base[x] for x in names if x in base), None)
    own = task.extras[key]
    if (
        theirs is None
        or theirs.shape != own.shape
        or not {theirs.dtype, own.dtype} <= set(DENSE_DTYPES)
    ):
        return False
    if own.dtype == theirs.dtype and own.raw() == theirs.raw():
        return True
    if key in task.tensor_errors:
        a, b = own.numpy(), theirs.numpy()
        within = _GRID * task.tensor_errors[key] + _ROUNDING.get(own.dtype, 0)
        return bool(np.linalg.norm(a - b) <= within * np.linalg.norm(b))
    each = ((own, theirs), (theirs, own))
    return any(nearest(x.float64(), y.dtype) == y.raw() for x, y in each)


# How kohya and MLX end the name of a DoRA magnitude.
_MAGNITUDE: Final = re.compile(r"(.+)\.(?:m|dora_scale|lora_magnitude_vector)")


def changing_extras(
    task: TaskAdapter, base: Mapping[str, RawTensor] | None = None
) -> dict[str, ExtraKind]:
    """Return the kind of each extra that may change the base, by key.

    :func:`hydraopt.bundle.peft.extras.left_to_base` says which weights of the base are none.
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
