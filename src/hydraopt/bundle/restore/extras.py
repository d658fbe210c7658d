"""What is no low-rank factor, under the names and in the shape that PEFT gives it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from hydraopt.adapters.keys import PREFIX, names_adapter
from hydraopt.adapters.model import ExtraKind
from hydraopt.adapters.rawtensor import HeldBytes, RawTensor
from hydraopt.adapters.tuners import changing
from hydraopt.bundle.restore.tensors import rounded
from hydraopt.errors import ExportError, explain

if TYPE_CHECKING:
    from hydraopt.bundle.task import TaskAdapter

__all__ = ["changing_extras", "exported_extras", "folded_extras"]

_WRAPPERS: Final = re.compile(r"(?:^module\.|\b_orig_mod\.|\b_fsdp_wrapped_module\.)")
# An adapter's own name ("default") inside a tensor's, as training loops leave it that save the
# model's state themselves.
_KEPT: Final = re.compile(r"\.modules_to_save\.[^.]+\.")
_NAMED: Final = (
    (re.compile(r"\.lora_magnitude_vector\..+$"), ".lora_magnitude_vector"),
    (re.compile(r"\.lora_B\.[^.]+\.bias$"), ".lora_B.bias"),
    (re.compile(r"\.trainable_tokens_delta\.[^.]+$"), ".trainable_tokens_delta"),
)
# How kohya and MLX end the name of a DoRA magnitude.
_MAGNITUDE: Final = re.compile(r"(.+)\.(?:m|dora_scale|lora_magnitude_vector)")


def changing_extras(task: TaskAdapter) -> dict[str, ExtraKind]:
    """What each extra is that may change the base, by key."""
    kinds = {key: task.extra_kinds.get(key, "saved") for key in task.extras}
    return changing(kinds, task.config)


def exported_extras(task: TaskAdapter, *, unfolded: bool) -> dict[str, RawTensor]:
    """A task's extras by a LoRA's PEFT key, bytes as they were.

    Those of :func:`changing_extras`, in their order. unfolded: the scale stays in the config; else
    biases of lora_B are multiplied by theirs.
    Raises ExportError for a tensor that PEFT has no place for.
    """
    scales, named = _bias_scales(task), names_adapter(task.extras.keys())
    result: dict[str, RawTensor] = {}
    extras = task.extras
    for key, kind in changing_extras(task).items():
        tensor = extras[key]
        if kind == "lora_bias" and not unfolded:
            tensor = _with_scale(task, key, tensor, scales)
        if task.entry.format != "peft":
            if kind == "dora_magnitude":
                tensor = _magnitude(task, key, tensor)
                match = _MAGNITUDE.fullmatch(key)
                key = f"{match[1] if match else key}.lora_magnitude_vector"
            elif kind != "lora_bias" and task.entry.format != "loralib":
                raise _no_place(
                    task, key, f"{task.entry.format} tensors of this kind have no match"
                )
        new = _peft_name(key, named)
        if new in result:
            raise _no_place(task, key, f"another tensor is named {new!r} there")
        result[new] = RawTensor(new, tensor.dtype, tensor.shape, tensor.source, tensor.read)
    return result


def folded_extras(task: TaskAdapter) -> dict[str, RawTensor]:
    """The same extras under their own keys; biases of lora_B times the scale of their module."""
    scales, tensors = _bias_scales(task), task.extras
    return {
        key: _with_scale(task, key, tensors[key], scales) if kind == "lora_bias" else tensors[key]
        for key, kind in changing_extras(task).items()
    }


def _with_scale(
    task: TaskAdapter, key: str, tensor: RawTensor, scales: Mapping[str, float]
) -> RawTensor:
    if key not in scales:
        raise _no_place(task, key, "the scale of its module is not known")
    return _scaled(task, tensor, scales[key])


def _bias_scales(task: TaskAdapter) -> dict[str, float]:
    """The scale of each lora_bias, by its key."""
    if task.original is None:
        return dict(task.entry.bias_scales)
    scales = {x.b.name: x.scale for x in task.original.modules.values()}
    weights = {key: key.removesuffix("bias") + "weight" for key in task.extras}
    return {key: scales[weight] for key, weight in weights.items() if weight in scales}


def _scaled(task: TaskAdapter, tensor: RawTensor, scale: float) -> RawTensor:
    """The tensor times a scale, in its own dtype, or a wider one where numbers would not fit;
    untouched where the scale is 1."""
    if scale == 1:
        return tensor
    values = tensor.numpy().astype(np.float64) * scale
    # An 8-bit float times a scale may be none.
    dtype = "BF16" if tensor.dtype.startswith("F8") else tensor.dtype
    finite = np.isfinite(values)
    try:
        return rounded(tensor.name, values, dtype, task.name, finite=finite)
    except ExportError:
        return rounded(tensor.name, values, "F32", task.name, finite=finite)


def _magnitude(task: TaskAdapter, key: str, tensor: RawTensor) -> RawTensor:
    """A DoRA magnitude as PEFT holds that of a linear layer: one number for each output."""
    match = _MAGNITUDE.fullmatch(key)
    module = task.modules.get(match[1]) if match else None
    outputs = int(np.prod(tensor.shape))
    # A kohya magnitude may be one for each input, (1, n), which is another function.
    flat = len(tensor.shape) == 1 or tensor.shape == (outputs, 1)
    if module is None or module.kind != "linear" or outputs != module.m or not flat:
        raise _no_place(task, key, f"a magnitude of shape {tensor.shape}")
    return RawTensor(key, tensor.dtype, (outputs,), Path("memory"), HeldBytes(tensor.raw()))


def _peft_name(key: str, named: bool) -> str:
    """named: whether the word behind "modules_to_save" is an adapter's name."""
    plain = _WRAPPERS.sub("", key)
    if not plain.startswith("base_model."):
        plain = PREFIX + plain
    for pattern, replacement in _NAMED:
        plain = pattern.sub(replacement, plain)
    return _KEPT.sub(".", plain) if named else plain


def _no_place(task: TaskAdapter, key: str, why: str) -> ExportError:
    return ExportError(
        explain(
            f"PEFT has no place for tensor {key!r}: {why}",
            adapter=task.name,
            do="Read it from TaskAdapter.extras instead, or leave it out before merging",
        )
    )
