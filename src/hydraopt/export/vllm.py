"""Export a task as a folder for vLLM and LoRAX: PEFT's format, with nothing optional.

vLLM's loader (``vllm.lora``: ``PEFTHelper``, ``parse_fine_tuned_lora_name``, ``LoRAConfig``) wants
one rank, one alpha, names ``base_model.model.PATH.lora_A.weight``, no biases, no saved modules, no
DoRA, and reserves memory for a ``max_lora_rank`` out of a short list; LoRAX takes the scale from
the config's r and lora_alpha alone. docs/reference/exports.md lists the rules one by one.

Experts stacked in one tensor (PEFT's ``target_parameters``) keep PEFT's layout, which vLLM reads in
``LoRAModelManager._stack_moe_lora_weights``: PATH.experts.base_layer holds the pair of gate_up_proj
and PATH.experts the pair of down_proj, both are required, and A reads the input of the layer. Older
versions of PEFT swap input and output where the base stores experts as (experts, out, in).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from hydraopt.adapters import RawTensor
from hydraopt.bundle import (
    Pair,
    TaskAdapter,
    check_room,
    check_target,
    dtype_named,
    rounded,
    write_peft,
)
from hydraopt.codec import Factors
from hydraopt.errors import UsageError, explain
from hydraopt.export.modules import plain_pairs, refused
from hydraopt.files import check_apart

RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values of ``--max-lora-rank`` that all versions of vLLM permit (newer ones also 1)."""

_ENGINE: Final = "vLLM"
_BELOW: Final = ".base_layer"


def export_vllm(
    task: TaskAdapter,
    folder: str | os.PathLike[str],
    *,
    dtype: str = "same",
    base: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write ``task`` as a PEFT adapter folder that vLLM and LoRAX load.

    dtype: as in :func:`hydraopt.export.export_peft`; vLLM converts to that of its model.
    base: the base model's folder, for adapters that hold a copy of a layer's own weight: one that
        is the base's is left out.
    overwrite: also write into a folder that has files in it.

    A new folder appears at once and whole. Raises ExportError, naming adapter and module, for what
    vLLM cannot hold; UsageError for a folder in the way or a base that is none.
    """
    target = Path(folder)
    check_apart(target, [task.bundle.path, *([base] if base is not None else [])])
    check_target(target, overwrite)
    if base is not None and not Path(base).is_dir():
        raise UsageError(
            explain("cannot read the base model", file=Path(base), expected="a transformers folder")
        )
    config, tensors = vllm_adapter(task, dtype, base)
    write_peft(task, target, config, tensors)


def vllm_adapter(
    task: TaskAdapter, dtype: object = "same", base: str | os.PathLike[str] | None = None
) -> tuple[dict[str, Any], dict[str, RawTensor]]:
    """Return config and tensors of the task for vLLM; see :func:`export_vllm`.

    All modules have one rank, the least of :data:`RANKS` that holds them, padded with zeros, which
    changes no product; lora_alpha equals it, so the scale is 1.
    """
    kind = dtype_named(dtype, task.entry.dtype)
    if kind == "F64":
        kind = "F32"  # computing in 64 bits is in no engine's types
    pairs = plain_pairs(task, _ENGINE, base=base, layouts=("plain", "experts"))
    stacked = _experts(task, pairs)
    pairs = [stacked.get(pair.path, pair) for pair in pairs]
    largest = max(pairs, key=lambda pair: pair.rank)
    rank = next((r for r in RANKS if r >= largest.rank), None)
    if rank is None:
        what = f"rank {largest.rank}, more than {RANKS[-1]}"
        raise refused(task, _ENGINE, what, largest.path)
    check_room(task, ((pair, rank) for pair in pairs))
    tensors: dict[str, RawTensor] = {}
    for pair in pairs:
        for key, values in zip(pair.keys, pair.tensors(rank, 1.0), strict=True):
            tensors[key] = rounded(key, values, kind, task.name)
    paths = sorted(pair.path for pair in pairs if pair.path not in stacked)
    names = sorted({path.rpartition(".")[2] for path in paths})
    config = {
        "base_model_name_or_path": task.base_model,
        "bias": "none",
        "fan_in_fan_out": bool(task.config.get("fan_in_fan_out", False)),
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": names if _only_targets(names, paths, task) else paths,
        "task_type": task.config.get("task_type"),
        "use_dora": False,
        "use_rslora": False,
    }
    parameters = task.config.get("target_parameters")
    if stacked and parameters is not None:
        config["target_parameters"] = parameters
    return config, tensors


def _experts(task: TaskAdapter, pairs: Sequence[Pair]) -> dict[str, Pair]:
    """Return the pairs of stacked experts by path, as vLLM reads them.

    Raises ExportError for a layer without both projections, or with others than these.
    """
    stacked = {pair.path: pair for pair in pairs if pair.module.layout == "experts"}
    result: dict[str, Pair] = {}
    for path in sorted(x.removesuffix(_BELOW) for x in stacked):
        up, down = stacked.get(path + _BELOW), stacked.get(path)
        if up is None or down is None:
            raise refused(task, _ENGINE, "one of the two projections of stacked experts", path)
        above, below = (up.module.m, up.module.n), (down.module.n, down.module.m)
        if above == (2 * below[0], below[1]):
            result |= {up.path: up, down.path: down}
        elif above == (below[0], 2 * below[1]):
            result |= {up.path: _swapped(up), down.path: _swapped(down)}
        else:
            what = "stacked experts other than gate_up_proj and then down_proj"
            raise refused(task, _ENGINE, what, path)
    return result


def _swapped(pair: Pair) -> Pair:
    """Return the pair of the transposed change."""
    members = (
        (position, module, Factors(factors.A.T, factors.B.T))
        for position, module, factors in pair.members
    )
    return dataclasses.replace(pair, members=tuple(members))


def _only_targets(names: list[str], paths: list[str], task: TaskAdapter) -> bool:
    """Return whether the last names of paths separate the task's modules from all others."""
    others = (x.path for x in task.manifest.modules)
    return {x for x in others if x.rpartition(".")[2] in names} <= set(paths)
