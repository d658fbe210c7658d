"""Adapter files written byte by byte, for the tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

CODES = {"f": {4: "F32", 2: "F16", 8: "F64"}, "i": {8: "I64", 4: "I32"}, "b": {1: "BOOL"}}


def pack(tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file; a value is an array, or (dtype, shape, bytes)."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for name, value in tensors.items():
        if not isinstance(value, tuple):
            value = (CODES[value.dtype.kind][value.dtype.itemsize], value.shape, value.tobytes())
        dtype, shape, raw = value
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def lora(
    rank: int = 2, m: int = 5, n: int = 7, paths: tuple[str, ...] = ("h.0.q",)
) -> dict[str, Any]:
    """PEFT tensors of a random LoRA."""
    rng = np.random.default_rng(rank)
    result = {}
    for path in paths:
        for side, shape in (("A", (rank, n)), ("B", (m, rank))):
            values = rng.standard_normal(shape).astype(np.float32)
            result[f"base_model.model.{path}.lora_{side}.weight"] = values
    return result


def peft_config(**settings: Any) -> dict[str, Any]:
    """A minimal adapter_config.json: r 2, alpha 6, base "org/tiny"."""
    base = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "base_model_name_or_path": "org/tiny"}
    return {**base, **settings}
