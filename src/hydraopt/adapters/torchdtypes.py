"""Torch's dtypes by their safetensors names; torch is imported only when needed."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from hydraopt.extras import require

if TYPE_CHECKING:
    import torch

__all__ = ["dtype_name", "torch_dtype"]


@cache
def _by_name() -> dict[str, torch.dtype]:
    require("torch")
    import torch

    return {
        "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16,
        "I32": torch.int32, "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16,
        "F32": torch.float32, "F64": torch.float64, "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2, "U16": torch.uint16, "U32": torch.uint32,
        "U64": torch.uint64,
    }  # fmt: skip


def torch_dtype(name: str) -> torch.dtype:
    """Return the dtype of a name in :data:`hydraopt.adapters.rawtensor.DTYPE_BYTES`."""
    return _by_name()[name]


def dtype_name(dtype: torch.dtype) -> str | None:
    """Return the safetensors name of a dtype; None for an unsupported one."""
    return next((name for name, mine in _by_name().items() if mine is dtype), None)
