"""Raw tensors in files, and a safetensors reader with a validated header."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from hydraopt.errors import AdapterFormatError, explain
from hydraopt.files import AnyPath, Check, HeldFile, Ranges, held_at, strict_json

DTYPE_BYTES: Final[Mapping[str, int]] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
"""Element size of each dtype by its safetensors name; sub-byte and complex types are refused."""

NUMPY_CODES: Final[Mapping[str, str]] = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2",
}  # fmt: skip


@functools.cache
def _e4m3() -> NDArray[np.float32]:
    """Return the 256 numbers of F8_E4M3: bias 7, no infinities.

    NaN is the code whose bits are all 1, except for the sign.
    """
    bits = np.arange(256)
    sign = np.where(bits & 0x80, -1.0, 1.0)
    exponent, fraction = (bits >> 3) & 15, bits & 7
    normal = np.ldexp(1 + fraction / 8, exponent - 7)
    values = sign * np.where(exponent == 0, np.ldexp(fraction / 8, -6), normal)
    values[[0x7F, 0xFF]] = np.nan
    return values.astype(np.float32)


@functools.cache
def _e5m2() -> NDArray[np.float32]:
    """Return the 256 numbers of F8_E5M2, which is the upper byte of an F16; one NaN for all."""
    values = (np.arange(256, dtype=np.uint16) << 8).view(np.float16).astype(np.float32)
    values[np.isnan(values)] = np.nan
    return values


_FLOAT8: Final[Mapping[str, Callable[[], NDArray[np.float32]]]] = {
    "F8_E4M3": _e4m3, "F8_E5M2": _e5m2,
}  # fmt: skip


_MOST_AXES: Final = 32
"""Largest number of axes that every version of numpy supports."""
MOST_NUMBERS: Final = 1 << 40
"""Largest number of entries in a shape of a bundle's manifest; axes of length 0 are left out."""


@dataclass(frozen=True)
class RawTensor:
    """Tensor in a file: name, dtype and shape are known, the numbers are read on demand.

    dtype: safetensors name ("F32", "BF16", "I64", ...).  shape: as stored.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: AnyPath
    read: Callable[[], bytes] = field(repr=False, compare=False)

    def check_shape(self) -> None:
        """Raise AdapterFormatError for a shape that numpy cannot hold; such a tensor is bytes."""
        if len(self.shape) > _MOST_AXES:
            refuse(
                f"tensor {self.name[:80]!r} has too many axes",
                self.source,
                got=len(self.shape),
                expected=f"at most {_MOST_AXES}",
                do="Leave it out of the adapter, or save it flat",
            )
        # A tensor without numbers is of any shape, and arrays are not.
        if math.prod(size for size in self.shape if size) > MOST_NUMBERS:
            refuse(
                f"shape of tensor {self.name[:80]!r} is too large",
                self.source,
                got=self.shape,
                expected=f"sizes whose product is at most {MOST_NUMBERS}",
                do="Leave it out of the adapter",
            )

    @classmethod
    def from_numpy(cls, name: str, array: NDArray[Any]) -> RawTensor:
        """Return a tensor in memory with the array's dtype (bool, integers, f2, f4, f8)."""
        codes = {np.dtype(code): key for key, code in NUMPY_CODES.items() if key != "BF16"}
        little = array.dtype.newbyteorder("<")
        if little not in codes:
            refuse(f"tensor {name!r} has no safetensors dtype", Path("memory"), got=array.dtype)
        data = np.ascontiguousarray(array, dtype=little).tobytes()
        return cls(name, codes[little], array.shape, Path("memory"), HeldBytes(data))

    @property
    def nbytes(self) -> int:
        """Size of :meth:`raw` in bytes."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]

    @property
    def is_float(self) -> bool:
        """Return whether the numbers are floating point."""
        return "F" in self.dtype

    def raw(self) -> bytes:
        """Return the exact bytes, row-major and little-endian; read anew on each call."""
        data = self.read()
        if len(data) != self.nbytes:
            refuse(
                f"tensor {self.name!r} can no longer be read whole",
                self.source,
                got=f"{len(data)} bytes",
                expected=f"{self.nbytes} bytes",
                do="The file changed while it was in use; run again",
            )
        return data

    def numpy(self) -> NDArray[Any]:
        """Return the numbers as a fresh array: float32 for every float dtype, others as stored.

        Exact for 8-bit floats, BF16, F16 and F32; F64 is rounded to nearest (overflow gives
        infinity).
        """
        self.check_shape()
        if self.dtype in _FLOAT8:
            eight = np.frombuffer(self.raw(), np.uint8).reshape(self.shape)
            return _FLOAT8[self.dtype]()[eight]
        stored = np.frombuffer(self.raw(), dtype=NUMPY_CODES[self.dtype]).reshape(self.shape)
        if self.dtype == "BF16":
            # bf16 is the upper half of a float32.
            return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
        with np.errstate(over="ignore"):
            return stored.astype(np.float32 if self.is_float else stored.dtype.newbyteorder("="))

    def float64(self) -> NDArray[np.float64]:
        """Return the numbers of a float tensor, exactly, as a fresh array."""
        if self.dtype == "F64":
            self.check_shape()
            return np.frombuffer(self.raw(), "<f8").reshape(self.shape).astype(np.float64)
        return self.numpy().astype(np.float64)


class TensorFile(Mapping[str, RawTensor]):
    """Tensors of one file by name, in file order, with the file's own metadata."""

    def __init__(
        self,
        path: AnyPath,
        tensors: Mapping[str, RawTensor],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self._tensors = dict(tensors)

    def __getitem__(self, name: str) -> RawTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class HeldBytes:
    """Bytes that are already in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __call__(self) -> bytes:
        return self.data


@dataclass(frozen=True)
class FileSpan:
    """Bytes of a file, read when called.

    The file is opened anew each time: thousands of adapters stay open at once without using up
    file descriptors, and tensors can be sent to other processes. The stamp (size, time of change)
    guards against a training run that overwrites its checkpoint meanwhile.
    """

    portable: ClassVar[bool] = True
    """True if another process can read it as well; the default for readers without it is False."""
    path: Path
    start: int
    size: int
    stamp: tuple[int, int]

    def __call__(self) -> bytes:
        try:
            file = HeldFile(self.path)
            data = file.read(self.start, self.size)
        except OSError as error:
            refuse("file cannot be read", self.path, got=error, do="Check that it still exists")
        if file.stamp != self.stamp:
            refuse("file changed while it was in use", self.path, do="Run again")
        return data


class HeldSpan:
    """Bytes of a file that stays open, read when called."""

    def __init__(self, file: Ranges, start: int, size: int) -> None:
        self.file, self.start, self.size = file, start, size

    def __call__(self) -> bytes:
        return self.file.read(self.start, self.size)


def stamp_of(status: os.stat_result) -> tuple[int, int]:
    """Return size and time of change, which distinguish a file from another under the same name."""
    return status.st_size, status.st_mtime_ns


DAMAGED: Final = "The file is damaged; download or save it again"


def refuse(
    what: str,
    file: AnyPath,
    *,
    module: object = None,
    got: object = None,
    expected: object = None,
    do: str | None = None,
) -> NoReturn:
    """Raise AdapterFormatError with a message in the house style."""
    message = explain(what, file=file, module=module, got=got, expected=expected, do=do)
    raise AdapterFormatError(message)


_MAX_HEADER: Final = 100_000_000  # the limit of the safetensors specification


def open_safetensors(path: AnyPath, size: int, held: Ranges | None = None) -> TensorFile:
    """Return the tensors of a safetensors file of ``size`` bytes; only its header is read.

    held: the file itself, if it stays open, as one at an address has to; else it is opened anew for
    each tensor. Raises AdapterFormatError.
    """
    header, data_start = _read_header(path, size, held)
    # MLX writes "__metadata__": null.
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(x, str) for x in metadata.values()):
        refuse("safetensors metadata is not a map from text to text", path, do=DAMAGED)
    spans: list[tuple[int, int, str]] = []
    span = _spans_of(path, held)
    tensors: dict[str, RawTensor] = {}
    for name, entry in header.items():
        dtype, shape, begin, end = _check_entry(path, name, entry)
        spans.append((begin, end, name))
        start, length = data_start + begin, end - begin
        tensors[name] = RawTensor(name, dtype, shape, path, span(start, length))
        tensors[name].check_shape()
    # The format forbids holes and overlaps, so the sorted spans must tile the data exactly. Empty
    # tensors share their position with the next one and sort first.
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            refuse(
                f"bytes of tensor {name!r} overlap others or leave a hole",
                path,
                got=f"start {begin}",
                expected=f"start {position}",
                do=DAMAGED,
            )
        position = end
    if data_start + position != size:
        refuse(
            "file is truncated, or has bytes that belong to no tensor",
            path,
            got=f"{size} bytes",
            expected=f"{data_start + position} bytes",
            do=DAMAGED,
        )
    return TensorFile(path, tensors, metadata)


def can_be_safetensors(path: AnyPath) -> Check:
    """Check the first bytes of an object at an address: a valid header for its length.

    Raises AdapterFormatError.
    """

    def check(head: bytes | bytearray, size: int) -> bool:
        start = 8 + int.from_bytes(head[:8], "little")
        if len(head) < min(8, size) or len(head) < start <= min(size, 8 + _MAX_HEADER):
            return False
        open_safetensors(path, size, _Head(bytes(head[: min(start, len(head))]), size))
        return True

    return check


class _Head(NamedTuple):
    """First bytes of a file of this size, as Ranges."""

    data: bytes
    size: int

    def read(self, start: int, size: int) -> bytes:
        return self.data[start : start + size]

    def is_current(self) -> bool:
        return True


def _spans_of(path: AnyPath, held: Ranges | None) -> Callable[[int, int], FileSpan | HeldSpan]:
    """Return a function that makes a reader from a start and a length."""
    if held is not None:
        return functools.partial(HeldSpan, held)
    if not isinstance(path, Path):
        raise TypeError(f"{path} is no file that can be opened anew")
    stamp = stamp_of(path.stat())
    return lambda start, length: FileSpan(path, start, length, stamp)


def _read_header(path: AnyPath, size: int, held: Ranges | None) -> tuple[dict[str, Any], int]:
    """Return the parsed header and the position where the tensor data starts."""
    file = held if held is not None else held_at(path)
    length = int.from_bytes(file.read(0, 8), "little")
    if size < 8 or length > min(size - 8, _MAX_HEADER):
        refuse(
            "not a safetensors file, or cut off inside its header",
            path,
            got=f"a header of {length} bytes in a file of {size}" if size >= 8 else f"{size} bytes",
            expected=f"at most {min(size - 8, _MAX_HEADER)} bytes" if size >= 8 else "at least 8",
            do=DAMAGED,
        )
    text = file.read(8, length)
    try:
        header = strict_json(text)
    except ValueError as error:
        refuse("safetensors header is not valid JSON", path, got=error, do=DAMAGED)
    if not isinstance(header, dict):
        got = type(header).__name__
        refuse("safetensors header is not a JSON object", path, got=got, do=DAMAGED)
    return header, 8 + length


def _check_entry(path: AnyPath, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Return (dtype, shape, begin, end) of one header entry, consistent with each other."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        refuse(
            f"header entry of tensor {name!r} is malformed",
            path,
            got=repr(entry)[:80],
            expected="dtype, shape and data_offsets",
            do=DAMAGED,
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        refuse(
            f"dtype of tensor {name!r} is not supported",
            path,
            got=repr(dtype)[:40],
            expected=", ".join(DTYPE_BYTES),
            do="Save it again in one of these",
        )
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        refuse(
            f"shape or data_offsets of tensor {name!r} are not lists of non-negative integers",
            path,
            got=repr((shape, offsets))[:80],
            do=DAMAGED,
        )
    begin, end = offsets
    expected = math.prod(shape) * DTYPE_BYTES[dtype]
    if end - begin != expected:
        refuse(
            f"size of tensor {name!r} does not follow from its shape {shape} and dtype {dtype}",
            path,
            got=f"{end - begin} bytes",
            expected=f"{expected} bytes",
            do=DAMAGED,
        )
    return dtype, tuple(shape), begin, end


def _naturals(value: Any) -> bool:
    """Return whether value is a list of integers in [0, 2^63); a bool is not an integer in JSON."""
    return isinstance(value, list) and all(type(x) is int and 0 <= x < 1 << 63 for x in value)
