"""Reading npz archives as raw tensors."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from hydraopt.adapters.rawtensor import DAMAGED, NUMPY_CODES, RawTensor, TensorFile, refuse
from hydraopt.errors import AdapterFormatError

__all__ = ["open_npz"]

_FREE: Final = 64 << 20
_RATIO: Final = 64


@dataclass(frozen=True)
class _Member:
    """Data of one array in an npz file, read when called."""

    portable: ClassVar[bool] = True
    path: Path
    name: str

    def __call__(self) -> bytes:
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                array = archive[self.name]
        except Exception as error:  # zipfile and numpy raise a dozen types for damaged input
            refuse(f"array {self.name!r} cannot be read", self.path, got=error, do=DAMAGED)
        return np.ascontiguousarray(array).tobytes()


def open_npz(path: Path, size: int) -> TensorFile:
    """Open an npz file of this size. Raises AdapterFormatError for a damaged one."""
    tensors: dict[str, RawTensor] = {}
    codes = {np.dtype(code): name for name, code in NUMPY_CODES.items() if name != "BF16"}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            whole = sum(info.file_size for info in members)
            if whole > _FREE + _RATIO * size:
                refuse(
                    "the npz file unpacks to far more than it has bytes",
                    path,
                    got=f"{whole} bytes of {size}",
                    expected=f"at most {_FREE + _RATIO * size}",
                    do="Save the adapter again as safetensors",
                )
            for info in members:
                name = info.filename.removesuffix(".npy")
                with archive.open(info) as stream:
                    shape, dtype = _read_npy_header(stream)
                    header_bytes = stream.tell()
                if dtype not in codes:
                    do = "Save the adapter again in float32"
                    refuse(f"dtype of array {name!r} is not supported", path, got=dtype, do=do)
                expected = header_bytes + math.prod(shape) * dtype.itemsize
                # Deflate shrinks at most 1032-fold: what claims more would be a bomb.
                if info.file_size != expected or info.file_size > 1032 * info.compress_size + 1032:
                    refuse(
                        f"size of array {name!r} does not follow from its shape and dtype",
                        path,
                        got=f"{info.file_size} bytes, {info.compress_size} compressed",
                        expected=f"{expected} bytes",
                        do=DAMAGED,
                    )
                if name in tensors:
                    refuse(f"array {name!r} occurs twice", path, do=DAMAGED)
                read = _Member(path, name)
                tensors[name] = RawTensor(name, codes[dtype], shape, path, read)
                tensors[name].check_shape()
    except AdapterFormatError:
        raise
    except Exception as error:  # zipfile and numpy raise a dozen types for damaged input
        refuse("not a readable npz file", path, got=f"{type(error).__name__}: {error}", do=DAMAGED)
    return TensorFile(path, tensors)


def _read_npy_header(stream: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_2_0
    if version == (1, 0):
        read = np.lib.format.read_array_header_1_0
    shape, _, dtype = read(stream)
    return shape, dtype
