"""Export the base model with one task added to its weights, as a transformers checkpoint.

W' = W + B A for each module, the scale inside B; with DoRA, row i of it times m_i / |row i|. The
files are those of the base, tensor for tensor, so one tensor is in memory at a time. Computed in
float64 and rounded once to the base's own type; PEFT's merge_and_unload computes in that type.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from hydraopt.adapters import PREFIX, RawTensor, TensorFile, open_tensors
from hydraopt.bundle import (
    CONFIG as ADAPTER_CONFIG,
    HEADS,
    Pair,
    TaskAdapter,
    changing_extras,
    check_target,
    exported_extras,
    file_chunks,
    pairs_of,
    rounded,
    write_card,
)
from hydraopt.codec import Array
from hydraopt.errors import AdapterFormatError, AlignmentError, ExportError, UsageError, explain
from hydraopt.export.modules import refuse_settings, refused
from hydraopt.files import MOST_CONFIG, check_apart, read_regular, replaced_folder, write_atomically

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


_ENGINE: Final = "a merged checkpoint"
_FLOATS: Final = ("F16", "BF16", "F32", "F64")
# Rows of a weight that are in float64 at once: an embedding of 256,000 rows stays small.
MOST_ROWS: Final = 4096
# Models whose layers are transformers' Conv1D, which keeps its weight as (n, m).
_CONV1D: Final = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
_EMBEDDINGS: Final = frozenset({"embed_tokens", "wte", "word_embeddings", "embed_in"})
_SHARED: Final = _EMBEDDINGS | HEADS

_WIDER: Final = "Give the base in bfloat16 or float32"

Change = Callable[[RawTensor], bytes]


def export_merged(
    task: TaskAdapter,
    folder: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str],
    overwrite: bool = False,
) -> None:
    """Write the base model with ``task`` folded in, as transformers loads it.

    base: the transformers folder of the base, safetensors in one file or in shards. Its other files
        (configs, tokenizer, the index) are copied; names, shapes, types and shards stay.
    overwrite: also write into a folder that has files in it. Weights of an earlier checkpoint there
        go, as transformers might load them instead; an adapter's config is refused, because
        transformers would put that adapter on top.

    Trained biases and saved modules take the place of the base's. Raises ExportError, naming
    adapter and module, for what has no place in the base: changes of one of two tied embeddings,
    trained token rows, stacked experts, grouped convolutions, a head that the base lacks;
    AlignmentError for a base with other modules or shapes; UsageError for a base that cannot be
    read or a folder in the way. The target is then as it was.
    """
    target = Path(folder)
    check_apart(target, [task.bundle.path, base])
    check_target(target, overwrite)
    if (target / ADAPTER_CONFIG).exists():
        raise UsageError(
            explain(
                "an adapter lies where the merged model is to go, and would be loaded on top of it",
                file=target / ADAPTER_CONFIG,
                do="Give another folder",
            )
        )
    refuse_settings(task, _ENGINE)
    model = read_checkpoint(Path(base))
    changes = _changes(task, model)
    written = {*model.files, *(other.name for other in model.other_files)}
    # Weights of an earlier checkpoint there might be loaded instead.
    old = {x.name for x in weight_files(target)}
    with replaced_folder(target, lambda name: name in old - written) as made:
        for name, file in model.files.items():
            tensors = {
                key: _changed(tensor, changes[key]) if key in changes else tensor
                for key, tensor in file.items()
            }
            write_atomically(made / name, file_chunks(tensors, dict(file.metadata)))
        for other in model.other_files:
            shutil.copyfile(other, made / other.name)
        write_card(made, target, task, "transformers")
        _read_back(made, model)


def _changed(tensor: RawTensor, change: Change) -> RawTensor:
    """Return the tensor whose bytes are computed when they are asked for."""
    return dataclasses.replace(tensor, read=lambda: change(tensor))


def _changes(task: TaskAdapter, model: Checkpoint) -> dict[str, Change]:
    """Return the change of each tensor of the base that the task changes, by its name there."""
    pairs = pairs_of(task, task.factors())
    extras = exported_extras(task, unfolded=False, base=model.tensors)
    kinds = dict(zip(extras, changing_extras(task, model.tensors).values(), strict=True))
    name_in = _renaming(model, [pair.path for pair in pairs])
    changes: dict[str, Change] = {}
    for pair in pairs:
        key = f"{name_in(pair.path)}.weight"
        if key in changes:
            raise refused(task, _ENGINE, "two pairs on one layer", pair.path)
        if model.tied and pair.path.rpartition(".")[2] in _SHARED:
            raise refused(task, _ENGINE, "a change of one of two tied embeddings", pair.path)
        magnitude = extras.pop(f"{PREFIX}{pair.path}.lora_magnitude_vector", None)
        # PEFT saves the embedding below a pair whole; it then stands for the base's.
        own = extras.pop(f"{PREFIX}{pair.path}.base_layer.weight", None)
        tensor = _base_tensor(task, model, key, pair.path)
        if own is not None and own.shape != tensor.shape:
            raise _misfit(task, pair.path, tensor.shape, own.shape)
        changes[key] = _product(task, model, pair, tensor, magnitude, own)
    for key, value in extras.items():
        plain = name_in(key.removeprefix(PREFIX))
        if kinds[key] in ("dora_magnitude", "token_rows"):
            raise refused(task, _ENGINE, f"a {kinds[key]} tensor", plain)
        added = kinds[key] == "lora_bias"
        plain = plain.replace(".lora_B." if added else ".base_layer.", ".")
        if model.tied and _SHARED.intersection(plain.split(".")):
            raise refused(task, _ENGINE, "a change of one of two tied embeddings", plain)
        if kinds[key] == "bias" and plain not in model.tensors:
            if _is_tied_bias(key, value, extras):
                continue
            raise refused(task, _ENGINE, "a trained bias that the base's files lack", plain)
        if plain in changes:
            raise refused(task, _ENGINE, "a pair and a saved tensor for one weight", plain)
        tensor = _base_tensor(task, model, plain, plain)
        if tensor.shape != value.shape:
            raise _misfit(task, plain, tensor.shape, value.shape)
        changes[plain] = _replacement(task, value, added)
    return changes


def _is_tied_bias(key: str, value: RawTensor, extras: Mapping[str, RawTensor]) -> bool:
    """Return whether another trained bias is the same tensor.

    BERT's decoder shares the bias of the module around it, and files store one of the two.
    """
    around = extras.get(f"{key.removesuffix('.bias').rpartition('.')[0]}.bias")
    same = around is not None and (around.dtype, around.shape) == (value.dtype, value.shape)
    return same and around is not None and around.raw() == value.raw()


def _product(
    task: TaskAdapter,
    model: Checkpoint,
    pair: Pair,
    tensor: RawTensor,
    magnitude: RawTensor | None,
    own: RawTensor | None,
) -> Change:
    """Return W + B A, for the kinds of layers whose weight belongs to one pair.

    magnitude: of DoRA, if any.  own: the task's W, if it is not the base's.
    """
    module, last = pair.module, pair.path.rpartition(".")[2]
    if module.layout == "experts" or (module.kind == "conv" and module.groups > 1):
        raise refused(task, _ENGINE, "stacked experts or grouped convolutions", pair.path)
    embedding = module.kind == "embedding"
    # PEFT sees to it that the adapter says so where a layer is a Conv1D, whatever the model.
    conv1d = model.config.get("model_type") in _CONV1D or bool(task.config.get("fan_in_fan_out"))
    flipped = conv1d and last not in HEADS
    # The rows of the stored weight are outputs, but for embeddings and Conv1D.
    turned = embedding or (flipped and module.kind == "linear")
    if magnitude is not None and (turned or module.kind != "linear"):
        raise refused(task, _ENGINE, "DoRA on what is not a linear layer", pair.path)
    a, b = pair.tensors(pair.rank, 1.0)
    b, a = b.reshape(b.shape[0], -1), a.reshape(a.shape[0], -1)
    shape = (b.shape[0], a.shape[1])
    stored = (*tensor.shape[:1], int(np.prod(tensor.shape[1:])))
    if stored != (shape[::-1] if turned else shape):
        raise _misfit(task, pair.path, tensor.shape, shape[::-1] if turned else shape)
    left, right = (a.T, b.T) if turned else (b, a)
    norms = None if magnitude is None else magnitude.numpy().astype(np.float64).reshape(-1)

    def change(old: RawTensor) -> bytes:
        weight = (own or old).numpy().reshape(stored)
        done = []
        for start in range(0, stored[0], MOST_ROWS):
            rows = slice(start, start + MOST_ROWS)
            new = weight[rows].astype(np.float64) + left[rows] @ right
            if norms is not None:
                new *= _stretch(task, pair.path, norms[rows], np.linalg.norm(new, axis=1))[:, None]
            done.append(rounded(old.name, new, old.dtype, task.name, _WIDER).raw())
        return b"".join(done)

    return change


def _stretch(task: TaskAdapter, path: str, wanted: Array, norms: Array) -> Array:
    """Return the factor by which DoRA lengthens each row; rows of zeros stay as they are.

    Raises ExportError where it should get longer, of which PEFT makes NaN.
    """
    empty = norms == 0
    if wanted[empty].any():
        raise refused(task, _ENGINE, "a DoRA magnitude of a row that is all zeros", path)
    return np.divide(wanted, norms, out=np.zeros_like(norms), where=~empty)


def _replacement(task: TaskAdapter, value: RawTensor, added: bool) -> Change:
    """Return the task's own tensor in the base's type, or the base's plus it."""

    def change(old: RawTensor) -> bytes:
        if not added and value.dtype == old.dtype:
            return value.raw()
        new: Array = value.numpy().astype(np.float64)
        if added:
            new = new + old.numpy()
        return rounded(old.name, new, old.dtype, task.name, _WIDER).raw()

    return change


def _base_tensor(task: TaskAdapter, model: Checkpoint, key: str, path: str) -> RawTensor:
    tensor = model.tensors.get(key)
    if tensor is None:
        raise AlignmentError(
            explain(
                "the base model lacks a tensor that the task changes",
                adapter=task.name,
                file=model.folder,
                module=path,
                expected=key,
                do="Give the base model that the adapters were trained on",
            )
        )
    if tensor.dtype not in _FLOATS:
        raise ExportError(
            explain(
                "weights of the base cannot be added to",
                adapter=task.name,
                module=path,
                got=tensor.dtype,
                expected=", ".join(_FLOATS),
            )
        )
    return tensor


def _renaming(model: Checkpoint, paths: list[str]) -> Callable[[str], str]:
    """Return a function from an adapter's module names to the checkpoint's.

    Adapters name modules as in the whole model, checkpoints may as in the model without head.
    Versions of transformers have several names for one head, and files keep the first.
    """
    heads = [head for head in HEADS if f"{head}.weight" in model.tensors]

    def named(path: str) -> str:
        first, dot, rest = path.partition(".")
        return heads[0] + dot + rest if len(heads) == 1 and first in HEADS else path

    whole = [named(path) for path in paths]
    if whole and not all(f"{path}.weight" in model.tensors for path in whole):
        cut = [path.partition(".")[2] for path in whole]
        if all(f"{path}.weight" in model.tensors for path in cut):
            return lambda path: path.partition(".")[2]
    return named


def _misfit(task: TaskAdapter, path: str, got: Any, expected: Any) -> AlignmentError:
    return AlignmentError(
        explain(
            "a tensor of the base has another shape",
            adapter=task.name,
            module=path,
            got=tuple(got),
            expected=tuple(expected),
            do="Give the base model that the adapters were trained on",
        )
    )


def _read_back(folder: Path, model: Checkpoint) -> None:
    """Check that every tensor of the base exists again, in its type and shape."""
    made = read_checkpoint(folder)
    same = {k: (x.dtype, x.shape) for k, x in made.tensors.items()} == {
        k: (x.dtype, x.shape) for k, x in model.tensors.items()
    }
    if not same:
        raise ExportError(explain("the merged checkpoint is not whole", file=folder))
