"""Export a task as an mlx-lm adapter folder: adapter_config.json and adapters.safetensors.

What mlx-lm does with one (``tuner/utils.py``, ``load_adapters``): every module of the last
``num_layers`` layers whose name inside its layer is among ``keys``, and every module of the model
whose whole name is, becomes a LoRA layer of one rank and one scale, B zero; then the tensors are
loaded by name, lora_a (n, r) and lora_b (r, m). Layers that get none keep B zero and change
nothing; a tensor that no layer takes is an error, in older versions ignored.

mlx-swift-lm (``LoRAContainer``) does the same with Linear modules of the layers alone, stops at a
negative ``num_layers``, and drops what is for layers past the model's last one without a word.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_args

from hydraopt.adapters import PREFIX, ExtraKind, Kind, RawTensor
from hydraopt.bundle import (
    WEIGHTS as PEFT_WEIGHTS,
    TaskAdapter,
    check_target,
    exported_extras,
    file_chunks,
    read_back,
    rounded,
    write_card,
)
from hydraopt.errors import ExportError, UsageError, explain
from hydraopt.export.modules import (
    LINEAR,
    check_padded,
    kept_file,
    refuse_all_but,
    refused,
    stored_modules,
)
from hydraopt.files import MOST_CONFIG, check_apart, read_regular, replaced_folder, write_atomically

_ENGINE: Final = "mlx-lm"
_WEIGHTS: Final = "adapters.safetensors"
_CONFIG: Final = "adapter_config.json"
_ALL_LAYERS: Final = -1
# Beside them this config would be read as PEFT's, to which they belong.
_PEFT: Final = frozenset({PEFT_WEIGHTS, "adapter_model.bin"})

# STACK . INDEX . KEY of a module inside a layer.
_IN_LAYER: Final = re.compile(r"(?P<stack>.+?)\.(?P<index>\d+)\.(?P<key>.+)")
_EXPERT: Final = re.compile(r"(?:^|\.)experts\.\d+\.")


def export_mlx(
    task: TaskAdapter,
    folder: str | os.PathLike[str],
    *,
    dtype: str = "same",
    base: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write ``task`` as an adapter folder that mlx-lm loads (``--adapter-path``).

    dtype: as in :func:`hydraopt.export.export_peft`, but float64 becomes float32.
    base: the base model's folder, of which config.json says how many layers there are. Without it
        ``num_layers`` is that of an adapter that came from MLX, else -1, which mlx-lm takes for
        all; mlx-swift needs the number.
    overwrite: also write into a folder that has files in it. The weights of a PEFT adapter there
        go, as its config is written over.

    A new folder appears at once and whole, after it was read back. Raises ExportError, naming
    adapter and module, for what mlx-lm cannot hold; UsageError for a folder in the way or a base
    that cannot be read.
    """
    target = Path(folder)
    check_apart(target, [task.bundle.path, *([base] if base is not None else [])])
    check_target(target, overwrite)
    tensors: Mapping[str, RawTensor]
    kept = kept_file(task, "mlx", dtype) if base is None else None
    if kept is not None:
        tensors, metadata = kept
        config = {
            "fine_tune_type": "dora" if _is_dora(task) else "lora",
            "num_layers": _stated_layers(task),
            **_origin(task),
        }
    else:
        (config, tensors), metadata = _adapter(task, dtype, base), {}
    with replaced_folder(target, _PEFT.__contains__) as made:
        write_atomically(made / _WEIGHTS, file_chunks(tensors, metadata))
        write_atomically(made / _CONFIG, [json.dumps(config, indent=4, sort_keys=True).encode()])
        write_card(made, target, task, "mlx", as_it_was=kept is not None)
        read_back(made)


def _adapter(
    task: TaskAdapter, dtype: str = "same", base: str | os.PathLike[str] | None = None
) -> tuple[dict[str, Any], dict[str, RawTensor]]:
    """Return config and tensors of the task for mlx-lm; see :func:`export_mlx`.

    The scale of the config is that of all modules, if they share one; else 1, and each module's own
    is inside lora_b. Ranks are padded with zeros to the largest.
    """
    if task.entry.format in ("kohya", "diffusers"):
        raise refused(task, f"{_ENGINE}, which runs language models,", "a LoRA of an image model")
    # In mlx-lm a change of the embedding also changes a head that is tied to it, in PEFT it does
    # not, so only what came from MLX means the same there.
    kinds: tuple[Kind, ...] = ("linear", "embedding") if task.entry.format == "mlx" else LINEAR
    extras: tuple[ExtraKind, ...] = ("dora_magnitude",)
    if task.entry.format == "mlx":
        extras = get_args(ExtraKind)  # mlx-lm wrote them, or takes no notice of them
    refuse_all_but(task, _ENGINE, kinds, extras, base=base)
    magnitudes = _magnitudes(task)
    modules = stored_modules(task, dtype)
    if len({x.scale for x in modules}) > 1:
        modules = [x.folded() for x in modules]
    rank = max(x.rank for x in modules)
    check_padded(task, modules, rank)
    tensors: dict[str, RawTensor] = {}
    for x in modules:
        whole = x.padded(rank)
        for name, values, kind in (
            ("lora_a", whole.a.T, x.dtypes[0]),
            ("lora_b", whole.b.T, x.dtypes[1]),
        ):
            key = f"{x.path}.{name}"
            tensors[key] = rounded(key, values, kind, task.name)
    keys, layers = _keys(task)
    config: dict[str, Any] = {
        "fine_tune_type": "dora" if _is_dora(task) else "lora",
        "num_layers": _num_layers(task, base, layers),
        "lora_parameters": {
            "rank": rank,
            "scale": modules[0].scale,
            "dropout": 0.0,
            "keys": keys,
        },
    }
    if task.base_model:
        config["model"] = task.base_model
    return config, {**tensors, **magnitudes}


def _keys(task: TaskAdapter) -> tuple[list[str], int]:
    """Return (names inside a layer, or whole paths of modules outside; layers that must exist)."""
    keys: set[str] = set()
    stacks: dict[str, str] = {}
    layers = 0
    for path in task.modules:
        match = _IN_LAYER.fullmatch(path)
        keys.add(match["key"] if match else path)
        if match is None:
            continue
        stacks[match["stack"]] = path
        layers = max(layers, int(match["index"]) + 1)
        if _EXPERT.search(match["key"]):
            raise refused(task, _ENGINE, "experts one by one, which it stacks in one tensor", path)
    if len(stacks) > 1:
        raise refused(
            task, _ENGINE, f"layers of two stacks ({', '.join(stacks)})", list(stacks.values())[-1]
        )
    return sorted(keys), layers


def _num_layers(task: TaskAdapter, base: str | os.PathLike[str] | None, least: int) -> int:
    if base is None:
        return _stated_layers(task)
    file = Path(base) / "config.json"
    try:
        config = json.loads(read_regular(file, MOST_CONFIG).decode("utf-8"))
        # Models of images and texts have one config in the other.
        part = config if "num_hidden_layers" in config else config["text_config"]
        layers = part["num_hidden_layers"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unreadable(file, str(error) or type(error).__name__) from error
    if type(layers) is not int or layers < 1:
        raise _unreadable(file, f"num_hidden_layers {layers!r}")
    if layers < least:
        raise ExportError(
            explain(
                "the adapter changes layers that the base model lacks",
                adapter=task.name,
                file=file,
                got=f"{least} layers",
                expected=f"at most {layers}",
                do="Give the base model that the adapters were trained on",
            )
        )
    return layers


def _stated_layers(task: TaskAdapter) -> int:
    """Return ``num_layers`` of an adapter from MLX, which called it lora_layers until 2024."""
    origin = _origin(task)
    count = origin.get("num_layers", origin.get("lora_layers"))
    return count if type(count) is int else _ALL_LAYERS


def _is_dora(task: TaskAdapter) -> bool:
    return "dora_magnitude" in task.extra_kinds.values()


def _origin(task: TaskAdapter) -> dict[str, Any]:
    """Return the config that an adapter from MLX came with; {} for any other."""
    origin = task.config.get("hydraopt")
    settings = origin.get("config") if isinstance(origin, dict) else None
    return dict(settings) if isinstance(settings, dict) else {}


def _unreadable(file: Path, got: str) -> UsageError:
    return UsageError(
        explain(
            "cannot read the base model",
            file=file,
            got=got,
            expected="a transformers or MLX folder, its config.json with num_hidden_layers",
        )
    )


def _magnitudes(task: TaskAdapter) -> dict[str, RawTensor]:
    """Return DoRA magnitudes, ``PATH.m``, of every module or of none: mlx-lm wraps all alike.

    What came from MLX keeps all its other tensors as they were.
    """
    if task.entry.format == "mlx":
        return dict(task.extras)
    named = exported_extras(task, unfolded=False)
    magnitudes = {
        f"{key.removeprefix(PREFIX).removesuffix('.lora_magnitude_vector')}.m": tensor
        for key, tensor in named.items()
        if key.endswith(".lora_magnitude_vector")
    }
    if not magnitudes:
        return {}
    for path in sorted({f"{path}.m" for path in task.modules} ^ set(magnitudes)):
        what = "DoRA on some modules and not on others"
        raise refused(task, _ENGINE, what, path.removesuffix(".m"))
    for key, tensor in magnitudes.items():
        if tensor.shape != (task.modules[key.removesuffix(".m")].m,):
            raise refused(task, _ENGINE, f"a magnitude of shape {tensor.shape}", key)
    return magnitudes
