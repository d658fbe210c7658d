"""Read and write a base model's transformers folder, tensor by tensor."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hydraopt.adapters.rawtensor import RawTensor, TensorFile
from hydraopt.adapters.tensorfile import open_tensors
from hydraopt.bundle.tensors import HEADS
from hydraopt.errors import AdapterFormatError, UsageError, explain
from hydraopt.files.reading import MOST_CONFIG, read_regular

__all__ = ["Checkpoint", "read_checkpoint", "weight_files"]

_SINGLE: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_LOADED: Final = (
    _SINGLE,
    "model-*-of-*.safetensors",
    _INDEX,
    "pytorch_model.bin",
    "pytorch_model-*-of-*.bin",
    "pytorch_model.bin.index.json",
)
# A layer is a module that has others: of a sequence of plain ones, some have no weights at all.
_LAYER: Final = re.compile(r"((?:.*?\.)?(?:layers|blocks|block|h))\.(\d{1,6})\.[^.]+\.")
_DEPTHS: Final = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_WEIGHTS: Final = frozenset(
    {".bin", ".ckpt", ".gguf", ".h5", ".mlmodel", ".msgpack", ".npz", ".onnx", ".onnx_data", ".ot"}
    | {".pdparams", ".pkl", ".pt", ".pth", ".safetensors", ".tflite"}
)


@dataclass(frozen=True)
class Checkpoint:
    """Checkpoint of a base model.

    config: content of config.json.
    files: the weight files by name.
    tensors: all tensors, by name.
    other_files: files to copy with the weights: configs, tokenizer, the index of the shards; not
        weights in other formats and their indices.
    """

    folder: Path
    config: Mapping[str, Any]
    files: Mapping[str, TensorFile]
    tensors: Mapping[str, RawTensor]
    other_files: tuple[Path, ...]

    @property
    def tied(self) -> bool:
        """Return whether input and output embeddings are one tensor."""
        text = self.config.get("text_config")
        inner = text if isinstance(text, Mapping) else {}
        stated = self.config.get("tie_word_embeddings", inner.get("tie_word_embeddings"))
        if stated is not None:
            return bool(stated)
        heads = tuple(f".{head}.weight" for head in HEADS)
        return not any(f".{name}".endswith(heads) for name in self.tensors)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Open a transformers folder; of the weights only headers are read.

    Raises UsageError for a folder without config.json and safetensors weights, for quantised
    weights, for an index that does not fit its shards, and for layers that are missing.
    """
    config = _json(folder / "config.json", folder)
    if config.get("quantization_config"):
        raise _unfit(folder, "quantised weights", "weights in 16 or 32 bits")
    if (folder / "adapter_config.json").exists():
        raise _unfit(folder, "an adapter beside or in place of the model", "the base model alone")
    files = {name: _open(folder / name) for name in _shards(folder)}
    tensors: dict[str, RawTensor] = {}
    for name, file in files.items():
        twice = sorted(set(file) & set(tensors))
        if twice:
            raise _unfit(folder, f"{twice[0]!r} twice, also in {name}", "each tensor once")
        tensors.update(file)
    if (folder / _INDEX).is_file():
        _check_index(folder, files)
    _check_layers(folder, config, tensors)
    return Checkpoint(folder, config, files, tensors, tuple(_other_files(folder)))


def _shards(folder: Path) -> list[str]:
    if (folder / _SINGLE).is_file():
        return [_SINGLE]
    if not (folder / _INDEX).is_file():
        raise _unfit(folder, "no safetensors weights", f"{_SINGLE} or {_INDEX}")
    names = set(_weight_map(folder).values())
    for name in names:
        # A name may come from anywhere; it must not lead out of the folder.
        if Path(name).name != name or name in (".", ".."):
            raise _unfit(folder, f"shard {name!r}", "names of files in the folder")
    return sorted(names)


def _weight_map(folder: Path) -> dict[str, str]:
    weight_map = _json(folder / _INDEX, folder).get("weight_map")
    named = isinstance(weight_map, dict) and all(
        isinstance(name, str) for name in weight_map.values()
    )
    if not weight_map or not named:
        raise _unfit(folder, f"{_INDEX} without a weight_map", "tensor names to file names")
    return dict(weight_map)


def _check_index(folder: Path, files: Mapping[str, TensorFile]) -> None:
    stated = _weight_map(folder)
    actual = {tensor: name for name, file in files.items() for tensor in file}
    if stated != actual:
        odd = sorted(set(stated.items()) ^ set(actual.items()))[0]
        raise _unfit(folder, f"{odd[0]!r} in {odd[1]}", f"what {_INDEX} says")


def _check_layers(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, RawTensor]
) -> None:
    """Raise UsageError if a layer that the config counts is not there.

    Nothing here builds the model. So only numbers that are missing count: a layer may well have
    less than its like. The first of ModernBERT has no norm, the last of Swin no downsampling, and
    layers of Gemma share keys and values.
    """
    held: dict[str, set[int]] = {}
    for name in tensors:
        if parts := _LAYER.match(name):
            held.setdefault(parts[1], set()).add(int(parts[2]))
    inner = config.get("text_config")
    stated = [
        part[key]
        for part in (config, inner if isinstance(inner, Mapping) else {})
        for key in _DEPTHS
        if type(part.get(key)) is int and "decoder_layers" not in part
    ]
    for prefix, layers in held.items():
        count = max(layers) + 1
        lacks = [f"{prefix}.{i}" for i in range(count) if i not in layers]
        if len(held) == 1 and stated and count < max(stated):
            lacks.append(f"{prefix}.{count}")
        if lacks:
            raise UsageError(
                explain(
                    "the weight files of the base model lack layers",
                    file=folder,
                    got=f"{len(lacks)}: {', '.join(lacks[:4])}" + (", ..." if lacks[4:] else ""),
                    do="Fetch the base model again, or give the folder of a complete one",
                )
            )


def _open(file: Path) -> TensorFile:
    try:
        return open_tensors(file)
    except AdapterFormatError as error:
        raise UsageError(error.within("the base model cannot be read: ")) from error


def weight_files(folder: Path) -> Iterator[Path]:
    """Yield the files that transformers may load as the weights of the model in this folder."""
    for pattern in _LOADED:
        yield from sorted(folder.glob(pattern))


def _other_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        foreign_index = path.name.endswith(".index.json") and path.name != _INDEX
        weights = path.suffix in _WEIGHTS or foreign_index
        if path.is_file() and not weights and not path.name.startswith("."):
            yield path


def _json(file: Path, folder: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_regular(file, MOST_CONFIG).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _unfit(folder, error, f"a transformers folder with {file.name}") from error
    if not isinstance(content, dict):
        raise _unfit(folder, f"{file.name} that is no JSON object", "an object")
    return content


def _unfit(folder: Path, got: object, expected: str) -> UsageError:
    return UsageError(
        explain("not a base model to merge into", file=folder, got=got, expected=expected)
    )
