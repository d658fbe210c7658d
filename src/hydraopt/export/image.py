"""Export a task as a LoRA of an image model: a kohya file, or a diffusers folder.

The scale is inside W1's first half, or W2's where W1 is whole, and alpha equals the rank, so that
programs which divide otherwise, or apply the scale twice (lycoris-lora 4.1.3, when it merges LoHa
or LoKr), come to the same.

kohya (sd-scripts, ComfyUI, A1111; diffusers reads it too): ``NAME.lora_down.weight``,
``NAME.lora_up.weight`` and ``NAME.alpha``, dW = alpha / r * up @ down, NAME the path with a prefix
for the component and underscores for dots. What LyCORIS adds to such files goes back into them
(:mod:`hydraopt.export.lycoris`).

diffusers: ``COMPONENT.PATH.lora_A.weight`` and ``lora_B.weight`` in one file, PEFT's
settings in its metadata. It refuses tensors named alpha, and versions before 0.34 do not
read the settings, so the scale is inside B and alpha equals the rank.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from hydraopt.adapters import ExtraKind, Layout, RawTensor, component_of, ranks_and_alphas
from hydraopt.bundle import (
    TaskAdapter,
    check_file,
    check_target,
    file_chunks,
    folded_extras,
    read_back,
    rounded,
    write_card,
)
from hydraopt.errors import ExportError, explain
from hydraopt.export.modules import (
    Stored,
    check_padded,
    kept_file,
    refuse_all_but,
    refused,
    stored_modules,
)
from hydraopt.files import check_apart, replaced_file, replaced_folder, write_atomically

_LOHA = ("hada_w{}_a", "hada_w{}_b")
_LOKR = ("lokr_w{}_a", "lokr_w{}_b")


def product_tensors(task: TaskAdapter, factors: Iterable[Stored]) -> dict[str, RawTensor]:
    """Return the tensors of the products' low-rank factors, and the original's alphas if any.

    factors: modules of layout "factor". Both factors of a product have one rank in the file, the
    larger of the two, padded with zeros, and so has a Tucker core beside them.
    Raises ExportError for an export far larger than the bundle.
    """
    origin = task.config.get("hydraopt")
    origin = origin if isinstance(origin, Mapping) else {}
    by_path: dict[str, list[Stored]] = {}
    for x in factors:
        by_path.setdefault(x.module.stem, []).append(x.folded())
    ranks = {path: _rank(task, path, members) for path, members in by_path.items()}
    for path, members in by_path.items():
        check_padded(task, members, ranks[path])
    result: dict[str, RawTensor] = {}
    for path, members in by_path.items():
        for x in members:
            names = _LOHA if x.module.entrywise else _LOKR
            own = x.padded(ranks[path])
            for name, values, dtype in zip(
                names, (own.b, own.a), reversed(own.dtypes), strict=True
            ):
                key = f"{path}.{name.format(own.module.group + 1)}"
                result[key] = rounded(key, values, dtype, task.name)
        if origin.get("alphas", True):
            key = f"{path}.alpha"
            result[key] = rounded(key, np.array(float(ranks[path])), "F32", task.name)
    return result


def _rank(task: TaskAdapter, path: str, members: Iterable[Stored]) -> int:
    core = task.extras.get(f"{path}.lokr_t2")
    beside = core.shape[0] if core is not None and core.shape else 1
    return max(beside, *(x.rank for x in members))


_WEIGHTS: Final = "pytorch_lora_weights.safetensors"

_COMPONENT: Final = re.compile(r"(unet|transformer|text_encoder(?:_\d)?)\.(.+)")
# SDXL has two text encoders, and more than one transformer block in an attention of its U-Net.
_SDXL: Final = re.compile(r"text_encoder_2\.|(?:unet\.)?\w+_blocks?\..*\.transformer_blocks\.[1-9]")


def export_kohya(
    task: TaskAdapter,
    file: str | os.PathLike[str],
    *,
    dtype: str = "same",
    overwrite: bool = False,
) -> None:
    """Write ``task`` as a kohya file, names as they were read if the adapter came as one.

    dtype: as in :func:`hydraopt.export.export_peft`, but float64 becomes float32. With "same" a
        lossless task keeps its numbers and alphas; where alphas of another format differ, the
        scale goes into B, and ranks are padded with zeros to the largest.
    overwrite: replace a file of that name.

    The file appears at once and whole, after it was read back. Raises ExportError, naming adapter
    and module, for a language model's adapter, names that become one without their dots, a
    component that kohya has no prefix for, and what :func:`hydraopt.export.modules.refuse_all_but`
    refuses (a kohya file's own other tensors are written as they were); UsageError for a file in
    the way.
    """
    target = Path(os.path.abspath(file))
    check_apart(target, [task.bundle.path])
    check_file(target, overwrite)
    kept = kept_file(task, "kohya", dtype)
    if kept is not None:
        names, (tensors, metadata) = set(task.modules), kept
    else:
        names, tensors, metadata = _kohya(task, dtype)
    with replaced_file(target, ".safetensors") as made:
        write_atomically(made, file_chunks(tensors, metadata))
        _check_names(task, made, names)


def _kohya(
    task: TaskAdapter, dtype: str
) -> tuple[set[str], Mapping[str, RawTensor], Mapping[str, str]]:
    """Return the names of the modules, the tensors and the metadata of a kohya file."""
    everything = _modules(task, "kohya", dtype)
    products = [x for x in everything if x.module.layout == "factor"]
    plain = [x for x in everything if x.module.layout != "factor"]
    modules = _with_alphas(task, plain, dtype) if plain else []
    names = {x.path: _kohya_name(task, x.path) for x in everything}
    _need_distinct(task, names)
    tensors = product_tensors(task, products)
    alphas = [*(alpha for _, alpha in modules), *_alphas(tensors)]
    for x, alpha in modules:
        name = names[x.path]
        tensors |= _pair(task, x, f"{name}.lora_down.weight", f"{name}.lora_up.weight")
        tensors[f"{name}.alpha"] = rounded(f"{name}.alpha", np.array(alpha), "F32", task.name)
    metadata = {
        **_kept_metadata(task, "kohya"),
        "ss_network_dim": _common(x.rank for x in everything),
        "ss_network_alpha": _common(alphas),
    }
    metadata.setdefault("ss_network_module", "networks.lora" if plain else "lycoris.kohya")
    if task.base_model:
        metadata.setdefault("ss_sd_model_name", task.base_model)
    return set(names.values()), _with_extras(task, tensors), metadata


def export_diffusers(
    task: TaskAdapter,
    folder: str | os.PathLike[str],
    *,
    dtype: str = "same",
    uniform_rank: bool = False,
    overwrite: bool = False,
) -> None:
    """Write ``task`` as a folder for ``load_lora_weights`` of a diffusers pipeline.

    dtype: as in :func:`hydraopt.export.export_peft`, but float64 becomes float32.
    uniform_rank: one rank in each component, padded with zeros, as versions before 0.34 need it.
    overwrite: also write into a folder that has files in it.

    A new folder appears at once and whole, after it was read back. Raises ExportError, naming
    adapter and module, for a language model's adapter, a kohya file's (its names have lost their
    dots; diffusers reads kohya files), and what :func:`hydraopt.export.modules.refuse_all_but`
    refuses (a diffusers file's own other tensors are written as they were); UsageError for a folder
    in the way.
    """
    target = Path(folder)
    check_apart(target, [task.bundle.path])
    check_target(target, overwrite)
    kept = None if uniform_rank else kept_file(task, "diffusers", dtype)
    if kept is not None:
        names, (tensors, metadata) = set(task.modules), kept
    else:
        names, tensors, metadata = _diffusers(task, dtype, uniform_rank)
    with replaced_folder(target) as made:
        write_atomically(made / _WEIGHTS, file_chunks(tensors, metadata))
        write_card(made, target, task, "diffusers", as_it_was=kept is not None)
        _check_names(task, made, names)


def _diffusers(
    task: TaskAdapter, dtype: str, uniform_rank: bool
) -> tuple[set[str], Mapping[str, RawTensor], Mapping[str, str]]:
    """Return the names of the modules, the tensors and the metadata of a diffusers file."""
    modules = [x.folded() for x in _modules(task, "diffusers", dtype)]
    names = {x.path: _diffusers_name(task, x.path, "diffusers") for x in modules}
    _need_distinct(task, names)
    by_component: dict[str, list[Stored]] = {}
    for x in modules:
        by_component.setdefault(names[x.path].partition(".")[0], []).append(x)
    tensors: dict[str, RawTensor] = {}
    settings: dict[str, object] = {}
    for component, members in by_component.items():
        if uniform_rank:
            most = max(x.rank for x in members)
            check_padded(task, members, most)
            members = [x.padded(most) for x in members]
        for x in members:
            name = names[x.path]
            tensors |= _pair(task, x, f"{name}.lora_A.weight", f"{name}.lora_B.weight")
        ranks = {_inner(names[x.path]): x.rank for x in members}
        settings |= {f"{component}.{k}": v for k, v in _settings(task, ranks).items()}
    metadata = {
        **_kept_metadata(task, "diffusers"),
        "format": "pt",
        "lora_adapter_metadata": json.dumps(settings, indent=2, sort_keys=True),
    }
    return set(names.values()), _with_extras(task, tensors), metadata


# --- names ------------------------------------------------------------------------------------


def _modules(task: TaskAdapter, engine: str, dtype: str) -> list[Stored]:
    extras: tuple[ExtraKind, ...] = get_args(ExtraKind)
    same = task.entry.format == engine
    # Of the two only kohya files hold products.
    layouts: tuple[Layout, ...] = ("plain", "factor") if same and engine == "kohya" else ("plain",)
    refuse_all_but(task, engine, ("linear", "conv"), extras if same else (), layouts)
    return stored_modules(task, dtype)


def _kohya_name(task: TaskAdapter, path: str) -> str:
    if task.entry.format == "kohya":
        return path
    component, _, inner = _diffusers_name(task, path, "kohya").partition(".")
    if component == "unet":
        prefix = "lora_unet"
    elif component == "text_encoder":
        prefix = "lora_te1" if _is_sdxl(task) else "lora_te"
    elif component == "text_encoder_2":
        prefix = "lora_te2"
    else:
        # kohya's own names for these are of layers that are fused otherwise.
        raise refused(task, "kohya", f"layers of the component {component!r}", path)
    if component != "unet" and inner.startswith("encoder."):
        # transformers 5 no longer has this level, the names of the format do.
        inner = f"text_model.{inner}"
    return f"{prefix}_{inner.replace('.', '_')}"


def _diffusers_name(task: TaskAdapter, path: str, engine: str) -> str:
    """Return COMPONENT.PATH of a module of an image model."""
    if task.entry.format == "kohya":
        what = "names of a kohya file, in which underscores stand for dots"
        raise refused(task, engine, f"{what} (it reads --format kohya)", path)
    if task.entry.format == "diffusers":
        if ":" in path or "." not in path:
            raise refused(task, engine, "modules that are numbered, not named", path)
        return path
    component = component_of(task.modules)
    if component is not None:
        return path if _COMPONENT.fullmatch(path) else f"{component}.{path}"
    what = "modules that are not known as those of an image model"
    raise refused(task, engine, what, path)


def _is_sdxl(task: TaskAdapter) -> bool:
    paths = (*task.modules, *(x.path for x in task.manifest.modules))
    return any(_SDXL.match(path) for path in paths)


def _need_distinct(task: TaskAdapter, names: Mapping[str, str]) -> None:
    counts = Counter(names.values())
    for path, name in names.items():
        if counts[name] > 1:
            raise ExportError(
                explain(
                    "two modules would have one name in the file",
                    adapter=task.name,
                    module=path,
                    got=name,
                    do="Export it with --format peft, which keeps the dots",
                )
            )


def _check_names(task: TaskAdapter, made: Path, names: Iterable[str]) -> None:
    """Read back what was written; its modules have the names that they were given."""
    changed = set(read_back(made).modules) ^ set(names)
    if changed:
        raise ExportError(
            explain(
                "modules would come back under other names",
                adapter=task.name,
                module=min(changed),
                do="Export it with --format peft, which keeps them",
            )
        )


# --- numbers and settings ---------------------------------------------------------------------


def _with_alphas(
    task: TaskAdapter, modules: list[Stored], dtype: str
) -> list[tuple[Stored, float]]:
    """Return the modules and their alphas: one for all, because diffusers reads only one rightly.

    What was in a kohya file keeps its own, if all are float32 numbers other than 0.
    """
    alphas = [float(np.float32(x.scale * x.rank)) for x in modules]
    stated = all(
        alpha and math.isfinite(alpha) and alpha / x.rank == x.scale
        for x, alpha in zip(modules, alphas, strict=True)
    )
    exact = task.original is not None and dtype == "same"
    if stated and (len(set(alphas)) == 1 or (exact and task.entry.format == "kohya")):
        return list(zip(modules, alphas, strict=True))
    most = max(x.rank for x in modules)
    if exact:
        check_padded(task, modules, most)
        return [(x.folded().padded(most), float(most)) for x in modules]
    # B is rounded anyway, so it may as well make up for its rank.
    return [
        (replace(x, b=x.b * (x.rank / most), scale=most / x.rank), float(most)) for x in modules
    ]


def _pair(task: TaskAdapter, x: Stored, a_key: str, b_key: str) -> dict[str, RawTensor]:
    a, b = x.kernels()
    return {
        a_key: rounded(a_key, a, x.dtypes[0], task.name),
        b_key: rounded(b_key, b, x.dtypes[1], task.name),
    }


def _with_extras(task: TaskAdapter, tensors: dict[str, RawTensor]) -> dict[str, RawTensor]:
    for key, tensor in folded_extras(task).items():
        if key in tensors:
            raise ExportError(
                explain(f"two tensors would have the name {key!r}", adapter=task.name)
            )
        tensors[key] = tensor
    return tensors


def _kept_metadata(task: TaskAdapter, engine: str) -> dict[str, str]:
    """Return the metadata of an original of the same format, without hashes of its bytes."""
    origin = task.config.get("hydraopt") if task.entry.format == engine else None
    metadata = origin.get("metadata") if isinstance(origin, dict) else None
    items = metadata.items() if isinstance(metadata, dict) else ()
    return {str(k): str(v) for k, v in items if not str(k).startswith("sshs_")}


def _common(values: Iterable[float]) -> str:
    """Format ranks or alphas as kohya's own tools do: one number, or "Dynamic" for several."""
    distinct = set(values)
    return str(distinct.pop()) if len(distinct) == 1 else "Dynamic"


def _alphas(tensors: Mapping[str, RawTensor]) -> list[float]:
    return [float(x.numpy()) for key, x in tensors.items() if key.endswith(".alpha")]


def _inner(name: str) -> str:
    """Return the path inside a component, as it ends in every version of transformers."""
    component, _, inner = name.partition(".")
    return inner.removeprefix("text_model.") if component.startswith("text_") else inner


def _settings(task: TaskAdapter, ranks: Mapping[str, int]) -> dict[str, Any]:
    """Return the settings of one component: alpha is the rank everywhere."""
    usual = Counter(ranks.values()).most_common(1)[0][0]
    paths = ranks_and_alphas({path: (r, r) for path, r in sorted(ranks.items())}, usual)
    kinds = task.extra_kinds.values()
    return {
        "r": paths.r,
        "lora_alpha": paths.lora_alpha,
        "rank_pattern": dict(paths.rank_pattern),
        "alpha_pattern": dict(paths.alpha_pattern),
        "target_modules": sorted(ranks),
        "use_dora": "dora_magnitude" in kinds,
        "lora_bias": "lora_bias" in kinds,
        "peft_type": "LORA",
    }
