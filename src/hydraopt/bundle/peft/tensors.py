"""Rounding of numbers to bytes, and writing tensors to a file as the safetensors package does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.adapters.rawtensor import DTYPE_BYTES, HeldBytes, RawTensor
from hydraopt.bundle.container import header_of
from hydraopt.errors import ExportError, UsageError, explain
from hydraopt.linalg.shapes import Array

__all__ = ["dtype_named", "file_chunks", "holds", "nearest", "rounded"]

_NAMED: Final = {
    "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
}  # fmt: skip

_LARGEST: Final = {
    "F16": np.finfo(np.float16).max,
    "BF16": np.ldexp(1 - 2.0**-8, 128),
    "F32": np.finfo(np.float32).max,
    "F64": np.finfo(np.float64).max,
}

# The order in which the safetensors package sorts the tensors of a file, falling.
_ORDER: Final = (
    "BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "I16", "U16", "F16", "BF16", "I32", "U32", "F32",
    "F64", "I64", "U64",
)  # fmt: skip


def dtype_named(name: object, original: str) -> str:
    """Return the safetensors dtype for "same", "float16", "bfloat16", "float32", or a torch dtype.

    original: dtype for "same" and None; 8-bit floats, which no PEFT reads, become BF16.
    """
    if name is None or name == "same":
        return original if original in _NAMED.values() else "BF16"
    text = str(name).removeprefix("torch.")
    if text not in _NAMED:
        raise UsageError(explain("unknown dtype", got=repr(name), expected=f"same, {list(_NAMED)}"))
    return _NAMED[text]


def rounded(
    key: str,
    values: Array,
    dtype: str,
    task: str,
    do: str = 'Choose dtype="bfloat16" or "float32"',
    finite: NDArray[np.bool_] | bool = True,
) -> RawTensor:
    """Return a tensor of the values, rounded to nearest, ties to even.

    finite: mask of values that must be finite after rounding.

    Raises ExportError, which recommends ``do``, if a number is too large for the dtype.
    """
    data, back = _cast(values, dtype)
    if not (np.isfinite(back) | ~np.asarray(finite)).all():
        raise ExportError(
            explain(
                f"numbers of {key!r} do not fit {dtype}",
                adapter=task,
                got=f"{float(np.abs(values).max()):.3g}",
                do=do,
            )
        )
    return RawTensor(key, dtype, values.shape, Path("memory"), HeldBytes(data.tobytes()))


def nearest(values: Array, dtype: str) -> bytes:
    """Round to a float dtype; values just beyond its largest number become that number."""
    most = float(_LARGEST[dtype])
    return _cast(np.clip(values, -most, most), dtype)[0].tobytes()


def holds(values: Array, dtype: str) -> bool:
    """Return True if the dtype can represent each of the values exactly."""
    return bool(np.array_equal(_cast(values, dtype)[1], values))


def _cast(values: Array, dtype: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return (what is stored, its values), rounded to nearest; too large becomes infinity."""
    with np.errstate(over="ignore"):
        if dtype == "BF16":
            # The upper half of a float32; adding half a unit, and the last bit for ties, rounds.
            bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
            bits = (
                bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
            ) >> np.uint32(16)
            return bits.astype("<u2"), (bits << np.uint32(16)).view(np.float32)
        code = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]
        data = np.ascontiguousarray(values, code)
        return data, data


def file_chunks(
    tensors: Mapping[str, RawTensor], metadata: Mapping[str, str] | None = None
) -> Iterator[bytes]:
    """Yield a safetensors file in pieces: the bytes that the safetensors package itself writes."""
    order = sorted(tensors.items(), key=lambda x: (-_ORDER.index(x[1].dtype), x[0].encode()))
    entries = [(key, x.dtype, x.shape, x.nbytes) for key, x in order]
    assert all(x.dtype in DTYPE_BYTES for x in tensors.values())
    yield _padded(header_of(entries, metadata or {"format": "pt"}))
    for _, tensor in order:
        yield tensor.raw()


def _padded(head: bytes) -> bytes:
    text = head[8:] + b" " * (-len(head) % 8)
    return len(text).to_bytes(8, "little") + text
