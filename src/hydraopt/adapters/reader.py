"""From a path to an Adapter, and from many paths to adapters that belong together."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydraopt.adapters.bases import check_same_base
from hydraopt.adapters.foreign import read_image_lora, read_loralib, read_mlx
from hydraopt.adapters.keys import parse
from hydraopt.adapters.model import Adapter, Format
from hydraopt.adapters.peft import Parts, read_peft
from hydraopt.adapters.rawtensor import refuse
from hydraopt.adapters.sources import Source, check_name, expand, load_config, locate, name_apart
from hydraopt.adapters.tensorfile import TensorFile, open_tensors
from hydraopt.errors import UsageError, explain

__all__ = ["Adapters", "read_adapter", "read_adapters"]


class Adapters(list[Adapter]):
    """Adapters read together.  notes: of the whole reading, such as files that were left out."""

    notes: tuple[str, ...] = ()


def read_adapter(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    base_model: str | None = None,
    alpha: float | None = None,
) -> Adapter:
    """Open one adapter: a folder, or a weight file with its adapter_config.json beside it.

    Formats are told apart by tensor names: PEFT, kohya, diffusers (and cloneofsimo), loralib, MLX.
    Headers are read and checked whole; tensors stay in the file until asked for.

    name: task name; default the folder's name, or the file's stem if it has an unusual one.
    base_model: overrides what the config says.
    alpha: lora_alpha where the file states none (loralib, old image files); default r, scale 1.

    Raises AdapterFormatError for everything that is not a whole, understood LoRA, with file,
    module and remedy; UsageError for an unusable name.
    """
    source = locate(path)
    chosen = check_name(name) if name is not None else source.names[0]
    return _read(source, chosen, base_model, alpha)


def read_adapters(
    paths_or_globs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    same_base: bool = False,
    base_model: str | None = None,
    alpha: float | None = None,
) -> Adapters:
    """Open adapters that are to be merged, sorted by task name.

    paths_or_globs: paths, glob patterns ("zoo/*"), and strings "NAME=PATH". Equal folder names are
        told apart by their parents: "run1-checkpoint", "run2-checkpoint". A file beside them that
        is no weight file, as a shell's "zoo/*" brings along, is left out with a note.
    same_base: the caller vouches that all were trained on one base, whatever their configs say.
    base_model, alpha: as in :func:`read_adapter`, for all.

    Raises BaseMismatchError for different or partly unknown bases, AlignmentError for modules of
    one path and different shapes, UsageError for names given twice, AdapterFormatError as
    :func:`read_adapter`.
    """
    selection = expand(paths_or_globs)
    requests = selection.requests
    if not requests:
        raise UsageError(explain("no adapters were given", do="Give at least one path"))
    sources = [locate(request.path) for request in requests]
    names = [request.name for request in requests]
    unnamed = [i for i, name in enumerate(names) if name is None]
    for i, name in zip(unnamed, name_apart([sources[i].names for i in unnamed]), strict=True):
        names[i] = name
    twice = sorted(str(name) for name, count in Counter(names).items() if count > 1)
    if twice:
        raise UsageError(
            explain("task names occur twice", got=", ".join(twice), do="Name them: NAME=PATH")
        )
    adapters = Adapters(
        _read(source, str(name), base_model, alpha)
        for source, name in zip(sources, names, strict=True)
    )
    adapters.notes = selection.notes
    adapters.sort(key=lambda adapter: adapter.name)
    check_same_base(adapters, same_base)
    return adapters


def _read(source: Source, name: str, base_model: str | None, alpha: float | None) -> Adapter:
    file = open_tensors(source.weights)
    config = load_config(source.config)
    parts = _parse(file, config, source.config, alpha)
    modules = {module.path: module for module in sorted(parts.modules, key=lambda x: x.path)}
    if len(modules) != len(parts.modules):
        paths = Counter(module.path for module in parts.modules)
        twice = next(path for path, count in paths.items() if count > 1)
        refuse("module occurs twice", source.weights, module=twice, do="Save the adapter again")
    return Adapter(
        name=name,
        source=source.weights,
        format=parts.format,
        base_model=base_model or parts.base_model,
        config=parts.config,
        modules=modules,
        extras={key: file[key] for key in parts.extras},
        tensors=file,
        extra_kinds={key: parts.extras[key] for key in file if key in parts.extras},
        notes=(*source.notes, *parts.notes),
        peft_keys=parts.keys,
    )


def _parse(
    file: TensorFile, config: Mapping[str, Any] | None, config_file: Path, alpha: float | None
) -> Parts:
    if not file:
        refuse("file holds no tensors", file.path, do="Save the adapter again")
    form = _sniff(file, config)
    if form == "loralib":
        return read_loralib(file, alpha)
    if form in ("kohya", "diffusers"):
        return read_image_lora(file, form, alpha)
    if config is None:
        refuse(
            "there is no adapter_config.json, which holds rank and alpha",
            config_file,
            do="Put the adapter's config beside its weights",
        )
    return (
        read_mlx(file, config, config_file)
        if form == "mlx"
        else read_peft(file, config, config_file)
    )


def _sniff(file: TensorFile, config: Mapping[str, Any] | None) -> Format:
    """The format, by the first tensor name that is typical of one."""
    has_peft_config = config is not None and ("peft_type" in config or "lora_alpha" in config)
    if config is not None and config.get("peft_type", "LORA") != "LORA":
        return "peft"  # its reader says why it is refused
    if "lora_adapter_metadata" in file.metadata:
        return "diffusers"
    for name in file:
        if name.endswith((".lora_a", ".lora_b")):
            return "mlx"
        if name.endswith((".lora_A", ".lora_B")):
            return "loralib"
        if (
            name.endswith((".lora_down.weight", ".lora_up.weight"))
            or ".hada_w" in name
            or ".lokr_w" in name
        ):
            return "kohya"
        if name.endswith((".down.weight", ".up.weight")) and "lora" in name:
            return "diffusers"
        if name.endswith((":down", ":up")):
            return "diffusers"
        if parse(name) is not None:
            # "transformer." alone is also how GPT-2 starts.
            image = name.startswith(("unet.", "text_encoder")) or "transformer_blocks." in name
            kohya = name.startswith(("lora_unet_", "lora_te"))
            if has_peft_config or not (image or kohya):
                return "peft"
            return "kohya" if kohya else "diffusers"
    refuse(
        "file holds no LoRA matrices",
        file.path,
        got=f"{len(file)} tensors such as {', '.join(map(repr, _sample(list(file))))}",
        expected="names with lora_A and lora_B, lora_down and lora_up, or lora_a and lora_b",
        do="The matrices were not saved; save again with model.save_pretrained",
    )


def _sample(names: Sequence[str]) -> Sequence[str]:
    return names[:2]
