"""Coded tensors that are no low-rank products, and rounding of numbers to bytes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from hydraopt.adapters import DTYPE_BYTES, PREFIX, BaseTensors, ExtraKind, HeldBytes, RawTensor
from hydraopt.bundle.encoding import check, digest, header_of, natural, one_of, text
from hydraopt.codec import Array, DenseRecord, as_matrix, from_matrix, matrix_shape
from hydraopt.errors import BaseMismatchError, ExportError, UsageError, explain
from hydraopt.files import AnyPath

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


DENSE_DTYPES: Final = ("F16", "BF16", "F32", "F64")
"""Dtypes of coded tensors: floats, to which values are rounded when a task is read."""
_MOST: Final = 1 << 37
_MOST_ROWS: Final = 1 << 29


@dataclass(frozen=True)
class TensorEntry:
    """Trained tensor that is coded, and is not a low-rank product.

    key, dtype, shape: as in the original.
    kind: see :data:`hydraopt.adapters.model.ExtraKind`.
    base: checksum of the base model's own tensor from which it is the difference, or None.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    kind: ExtraKind = "saved"
    base: str | None = None

    def __post_init__(self) -> None:
        text(self.key, "key of a coded tensor")
        one_of(self.dtype, DENSE_DTYPES, f"dtype of {self.key!r}")
        check(len(self.shape) <= 64, f"shape of {self.key!r}", self.shape, "at most 64 axes")
        for size in self.shape:
            natural(size, f"shape of {self.key!r}", 1, _MOST)
        check(self.numbers <= _MOST, f"size of {self.key!r}", self.numbers)
        rows = matrix_shape(self.shape)[0]
        check(rows <= _MOST_ROWS, f"rows of {self.key!r}", rows, f"at most {_MOST_ROWS}")
        one_of(self.kind, get_args(ExtraKind), f"kind of {self.key!r}")
        if self.base is not None:
            digest(self.base, f"base of {self.key!r}")

    def order(self) -> tuple[str, str, tuple[int, ...], str, str]:
        """Return the key by which the tensors of a bundle are sorted."""
        return self.key, self.dtype, self.shape, self.kind, self.base or ""

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)

    @property
    def needed(self) -> bool:
        """True if the task needs the tensor, because zeros would replace the base's own numbers.

        Zeros of a difference, or of a tensor that another tuner adds, change nothing instead.
        """
        added = self.kind in ("tuner", "tuner_ones", "lora_bias")
        return self.base is None and not added

    @property
    def neutral(self) -> float:
        """Number that means no change."""
        return 1.0 if self.kind == "tuner_ones" else 0.0


_TIED: Final = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
HEADS: Final = frozenset({"lm_head", "embed_out"})
"""Names that models give their output embeddings; the second is GPT-NeoX's."""
_OUTPUT: Final = tuple(f"{head}.weight" for head in sorted(HEADS, reverse=True))


def checksum(data: bytes) -> str:
    """Return the first 16 hex digits of the sha256."""
    return hashlib.sha256(data).hexdigest()[:16]


def matching_tensor(base: BaseTensors, key: str, shape: tuple[int, ...]) -> RawTensor | None:
    """Return the base model's tensor that a tensor of an adapter replaces, if any.

    Names may differ by leading parts ("model.", "transformer."); an output layer that the files
    lack is the input embedding, which it is tied to.
    """
    name = key.removeprefix(PREFIX)
    names = [name]
    if name.endswith(_OUTPUT):
        names += _TIED
    for wanted in names:
        fits = [
            tensor
            for own, tensor in base.items()
            if own == wanted or own.endswith("." + wanted) or wanted.endswith("." + own)
        ]
        exact = [tensor for tensor in fits if tensor.name == wanted]
        fits = exact or fits
        if len(fits) == 1:
            return fits[0] if fits[0].shape == shape and fits[0].is_float else None
    return None


def base_tensor(base: BaseTensors | None, entry: TensorEntry, file: AnyPath) -> RawTensor:
    """Return the base model's own tensor of an entry that has one.

    Raises UsageError without a base model, BaseMismatchError for another one.
    """
    what = f"tensor {entry.key!r} is kept as its difference from the base model's own"
    if base is None:
        raise UsageError(explain(what, file=file, do="Give the base model: --base FOLDER"))
    tensor = matching_tensor(base, entry.key, entry.shape)
    actual = None if tensor is None else checksum(tensor.raw())
    if tensor is None or actual != entry.base:
        raise BaseMismatchError(
            explain(
                f"{what}, which is not the one that was given",
                file=file,
                got=f"checksum {actual}" if tensor else "a base model without it",
                expected=f"checksum {entry.base}",
                do="Give the base model that the bundle was made with, in the same dtype",
            )
        )
    return tensor


def reference_of(entry: TensorEntry, common: DenseRecord | None, own: RawTensor | None) -> Array:
    """Return the matrix that a record is the difference from.

    common: shared record of the tensor.
    own: the base model's tensor.
    """
    shape = matrix_shape(entry.shape)
    if own is not None:
        reference: Array = as_matrix(own.float64().reshape(entry.shape))
    else:
        reference = np.broadcast_to(np.array([entry.neutral]), shape)
    return reference if common is None else common.values(reference)


def rounded_matrix(entry: TensorEntry, matrix: Array) -> Array:
    """Return the matrix (N, k) of a whole tensor, reference included, rounded to its dtype."""
    data = nearest(from_matrix(matrix, entry.shape), entry.dtype)
    held = RawTensor(entry.key, entry.dtype, entry.shape, Path("memory"), HeldBytes(data))
    return as_matrix(held.float64())


def tensor_of(
    entry: TensorEntry, record: DenseRecord, common: DenseRecord | None, own: RawTensor | None
) -> RawTensor:
    """Return the tensor of a task, in its dtype; it is computed each time it is read."""

    def read() -> bytes:
        reference = reference_of(entry, common if record.common else None, own)
        # Two axes at most, since a shape may have more than numpy holds.
        flat = (entry.shape[0], entry.numbers // entry.shape[0]) if entry.shape else ()
        return nearest(from_matrix(record.values(reference), flat), entry.dtype)

    return RawTensor(entry.key, entry.dtype, entry.shape, Path("memory"), read)
