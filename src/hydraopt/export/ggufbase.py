"""Properties of the base that a LoRA GGUF needs: architecture, layers, heads, and the shapes."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hydraopt.adapters.rawtensor import HeldBytes, RawTensor
from hydraopt.errors import ExportError, UsageError, explain
from hydraopt.extras import require
from hydraopt.files.reading import MOST_CONFIG, read_regular

__all__ = ["GgufBase", "gguf_head", "load_gguf", "read_gguf_base"]

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
