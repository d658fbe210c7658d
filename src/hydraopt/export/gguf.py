"""Export a task as a LoRA GGUF file, which llama.cpp loads beside its base model.

What llama.cpp does with one (``src/llama-adapter.cpp``): for each tensor NAME of the base it takes
NAME.lora_a (r, n) and NAME.lora_b (m, r) and adds ``alpha / r * lora_b lora_a`` with r that pair's
own rank. There is one alpha for the file, so what a pair of another rank lacks goes into its B.
An array adapter.alora.invocation_tokens, which has to be of uint32, makes it an aLoRA: llama-server
lets it act from the last place in the prompt where these tokens stand.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from hydraopt.adapters import HeldBytes, RawTensor
from hydraopt.bundle import Base, Pair, TaskAdapter, check_file, check_room, layer_below, rounded
from hydraopt.codec import Array
from hydraopt.errors import ExportError, UsageError, explain, require
from hydraopt.export.modules import ALORA, plain_pairs, refused
from hydraopt.files import MOST_CONFIG, check_apart, read_regular, replaced_file

# transformers' model_type to llama.cpp's architecture. Others may need what is not known here, as
# Llama needs its rows in another order.
_ARCHITECTURES: Final[Mapping[str, str]] = {
    "llama": "llama",
    "gemma3_text": "gemma3",
    "qwen2": "qwen2",
}


@dataclass(frozen=True)
class GgufBase:
    """Base model as llama.cpp names it.

    architecture: "llama", "gemma3" or "qwen2".  blocks: layers.
    heads, kv_heads: of attention; needed where the rows of q and k are stored in another order.
    shapes: (m, n) of the tensors, by name; None if only a config.json was given.
    """

    architecture: str
    blocks: int
    heads: int
    kv_heads: int
    shapes: Mapping[str, tuple[int, ...]] | None = None

    @property
    def permuted(self) -> bool:
        """Return whether llama.cpp stores the rows of q_proj and k_proj in its own RoPE order."""
        return self.architecture == "llama"


def load_gguf() -> Any:
    """Import the gguf package. Raises MissingExtraError if it is not installed."""
    require("gguf")
    return importlib.import_module("gguf")


def read_gguf_base(base: Path) -> GgufBase:
    """Read the base from a GGUF file, or from its transformers folder (its config.json).

    Raises UsageError for anything else; ExportError for an architecture that is not supported.
    """
    if base.suffix == ".gguf" and base.is_file():
        return _from_file(base)
    file = base / "config.json" if base.is_dir() else base
    try:
        config = json.loads(read_regular(file, MOST_CONFIG).decode("utf-8"))
        heads = config["num_attention_heads"]
        network = GgufBase(
            _architecture(config.get("model_type"), _ARCHITECTURES, file),
            config["num_hidden_layers"],
            heads,
            config.get("num_key_value_heads") or heads,
        )
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError,
    ) as error:  # fmt: skip
        if isinstance(error, ExportError):
            raise
        raise _unreadable(base, error) from error
    return _checked(network, file)


def gguf_head(file: Path) -> dict[str, RawTensor]:
    """Return the output embeddings of an open GGUF file, by their name in transformers.

    None of them if they are quantised or tied.
    """
    gguf = load_gguf()
    kinds = gguf.GGMLQuantizationType
    floats = {kinds.F32: "F32", kinds.F16: "F16", kinds.BF16: "BF16"}
    held = {x.name: x for x in gguf.GGUFReader(file).tensors}
    head, name = held.get("output.weight"), "lm_head.weight"
    if head is None or head.tensor_type not in floats:
        return {}
    shape = tuple(int(n) for n in reversed(head.shape))
    data = HeldBytes(head.data.tobytes())
    return {name: RawTensor(name, floats[head.tensor_type], shape, file, data)}


def _from_file(file: Path) -> GgufBase:
    gguf = load_gguf()
    try:
        reader = gguf.GGUFReader(file)
        fields = reader.fields
        name = bytes(fields["general.architecture"].parts[-1]).decode()
        architectures = {x: x for x in _ARCHITECTURES.values()}
        _architecture(name, architectures, file)
        heads = int(fields[f"{name}.attention.head_count"].parts[-1][0])
        kv = fields.get(f"{name}.attention.head_count_kv")
        blocks = int(fields[f"{name}.block_count"].parts[-1][0])
        # GGUF counts axes from the innermost.
        shapes = {x.name: tuple(int(n) for n in reversed(x.shape)) for x in reader.tensors}
    except (OSError, ValueError, KeyError, IndexError) as error:
        if isinstance(error, ExportError):
            raise
        raise _unreadable(file, error) from error
    kv_heads = heads if kv is None else int(kv.parts[-1][0])
    return _checked(GgufBase(name, blocks, heads, kv_heads, shapes), file)


def _architecture(name: object, known: Mapping[str, str], file: Path) -> str:
    if not isinstance(name, str) or name not in known:
        raise ExportError(
            explain(
                "LoRA GGUF files are not written for this architecture",
                file=file,
                got=repr(name),
                expected=", ".join(known),
                do="Export with --format peft and use llama.cpp's own convert_lora_to_gguf.py",
            )
        )
    return known[name]


def _checked(base: GgufBase, file: Path) -> GgufBase:
    for value in (base.blocks, base.heads, base.kv_heads):
        if type(value) is not int or value < 1:
            raise _unreadable(file, f"{base.blocks} layers, {base.heads}/{base.kv_heads} heads")
    return base


def _unreadable(base: Path, error: object) -> UsageError:
    return UsageError(
        explain(
            "cannot read the base model",
            file=base,
            got=str(error) or type(error).__name__,
            expected="a .gguf file of the base, or a transformers folder with config.json",
        )
    )


DTYPES: Final = {
    "same": "f16", "f16": "f16", "float16": "f16", "f32": "f32", "float32": "f32", "q8_0": "q8_0",
}  # fmt: skip
"""Values of ``dtype``, and the type of each."""

_ENGINE: Final = "llama.cpp"
_BLOCK: Final = 32  # numbers of a row that Q8_0 rounds together


def export_gguf(
    task: TaskAdapter,
    file: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str],
    dtype: str = "f16",
    overwrite: bool = False,
) -> None:
    """Write ``task`` as a LoRA GGUF file.

    base: the base model's .gguf file, or its transformers folder, of which only config.json is
        read. Of a .gguf file, names and shapes of all tensors are checked as well.
    dtype: "f16" (also "same"), "f32", or "q8_0": 8 bits with a scale for each 32 numbers of a row,
        and f16 where rows are not a multiple of 32 long, which is most lora_b.
    overwrite: replace a file of that name.

    The file appears at once and whole, after it was read back. Raises ExportError, naming adapter
    and module, for what a LoRA GGUF cannot hold, an architecture that is not supported, or if the
    gguf package is missing; UsageError for a file in the way or a base that cannot be read.
    """
    target = Path(os.path.abspath(file))
    if dtype not in DTYPES:
        raise UsageError(explain("unknown dtype", got=repr(dtype), expected="f16, f32, q8_0"))
    check_apart(target, [task.bundle.path, base])
    check_file(target, overwrite)
    gguf = load_gguf()
    about = read_gguf_base(Path(base))
    weights: Base = base
    if about.shapes is not None:  # a .gguf file, whose head may be gigabytes
        asked = any(layer_below(task, key) is not None for key in task.extra_kinds)
        weights = gguf_head(Path(base)) if asked else {}
    pairs = plain_pairs(task, _ENGINE, [ALORA], weights)
    invocation = _invocation(task)
    check_room(task, ((pair, pair.rank) for pair in pairs))
    alpha = max(pair.rank for pair in pairs)
    tensors: dict[str, Array] = {}
    for pair, name in zip(pairs, _names(gguf, task, pairs, about), strict=True):
        a, b = pair.tensors(pair.rank, alpha / pair.rank)
        last = pair.path.rpartition(".")[2]
        if about.permuted and last in ("q_proj", "k_proj"):
            b = _permuted(task, pair, b, about.heads if last == "q_proj" else about.kv_heads)
        tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"] = a, b
    with replaced_file(target, ".gguf") as made:
        writer = gguf.GGUFWriter(made, about.architecture)
        writer.add_string("general.type", "adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_string("general.name", task.name)
        writer.add_float32("adapter.lora.alpha", float(alpha))
        if invocation:
            kinds = gguf.GGUFValueType
            key = "adapter.alora.invocation_tokens"
            writer.add_key_value(key, invocation, kinds.ARRAY, kinds.UINT32)
        _write(gguf, writer, task.name, DTYPES[dtype], tensors)
        _read_back(gguf, made, task, tensors)


def _names(gguf: Any, task: TaskAdapter, pairs: list[Pair], about: GgufBase) -> list[str]:
    """Return llama.cpp's name of each pair's tensor, checked against the base if it is known."""
    architecture = next(
        arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == about.architecture
    )
    known = gguf.get_tensor_name_map(architecture, about.blocks)
    names = []
    for pair in pairs:
        plain = known.get_name(pair.path)
        if plain is None:
            what = f"a module that {about.architecture} with {about.blocks} layers lacks"
            raise refused(task, _ENGINE, what, pair.path)
        name, expected = f"{plain}.weight", (pair.module.m, pair.module.n)
        if plain == "output" and about.shapes is None:
            # With tied embeddings there is no such tensor, and llama.cpp would refuse the file.
            raise refused(task, f"{_ENGINE} without its .gguf as --base", "lm_head", pair.path)
        if about.shapes is not None and about.shapes.get(name) != expected:
            raise ExportError(
                explain(
                    "the base model has no such tensor",
                    adapter=task.name,
                    module=pair.path,
                    got=f"{name} {about.shapes.get(name, 'missing')}",
                    expected=expected,
                    do="Give the base model that the adapters were trained on",
                )
            )
        names.append(name)
    return names


def _permuted(task: TaskAdapter, pair: Pair, b: Array, heads: int) -> Array:
    """Return the rows of B (m, r) in llama.cpp's order for q and k of a Llama.

    transformers rotates the two halves of a head against each other, llama.cpp neighbours: within
    each head, row i of the first half is followed by row i of the second.
    """
    m, r = b.shape
    if m % (2 * heads):
        raise ExportError(
            explain(
                "rows of a projection do not divide among the heads of the base",
                adapter=task.name,
                module=pair.path,
                got=f"{m} rows, {heads} heads",
                do="Give the base model that the adapters were trained on",
            )
        )
    return b.reshape(heads, 2, m // heads // 2, r).swapaxes(1, 2).reshape(m, r)


def _invocation(task: TaskAdapter) -> list[int]:
    """Return the tokens after which an aLoRA acts; none for other LoRAs.

    Raises ExportError unless they are whole numbers, because the config is the author's.
    """
    tokens = task.config.get(ALORA) or []
    if isinstance(tokens, list) and all(type(x) is int and 0 <= x < 1 << 31 for x in tokens):
        return tokens
    raise ExportError(
        explain(
            f"{ALORA} are no tokens",
            adapter=task.name,
            got=repr(tokens)[:80],
            expected="a list of whole numbers",
            do="Correct adapter_config.json and merge again",
        )
    )


def _write(gguf: Any, writer: Any, name: str, dtype: str, tensors: dict[str, Array]) -> None:
    """Add the tensors in that type to the file of ``writer``, and write it."""
    if dtype == "q8_0":
        writer.add_uint32("general.quantization_version", gguf.GGML_QUANT_VERSION)
    for key, values in tensors.items():
        if dtype == "q8_0" and values.shape[1] % _BLOCK == 0:
            eight = gguf.GGMLQuantizationType.Q8_0
            packed = gguf.quants.quantize(np.ascontiguousarray(values, np.float32), eight)
            writer.add_tensor(key, packed, raw_dtype=eight)
            continue
        code, kind = ("F32", "<f4") if dtype == "f32" else ("F16", "<f2")
        data = rounded(key, values, code, name, "Choose --dtype f32").raw()
        writer.add_tensor(key, np.frombuffer(data, kind).reshape(values.shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _read_back(gguf: Any, file: Path, task: TaskAdapter, tensors: dict[str, Array]) -> None:
    layout = {
        x.name: tuple(int(n) for n in reversed(x.shape)) for x in gguf.GGUFReader(file).tensors
    }
    expected = {name: values.shape for name, values in tensors.items()}
    if layout != expected:
        raise ExportError(explain("the GGUF file cannot be read back whole", adapter=task.name))
