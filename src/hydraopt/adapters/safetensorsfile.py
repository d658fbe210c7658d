"""Reading safetensors with a validated header and without the tensors' framework."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from hydraopt.adapters.jsontext import strict_json
from hydraopt.adapters.rawtensor import (
    DAMAGED,
    DTYPE_BYTES,
    FileSpan,
    HeldSpan,
    RawTensor,
    TensorFile,
    refuse,
    stamp_of,
)
from hydraopt.files.answers import Check
from hydraopt.files.ranges import held_at
from hydraopt.files.reading import Ranges
from hydraopt.files.url import AnyPath

__all__ = ["can_be_safetensors", "open_safetensors"]

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
