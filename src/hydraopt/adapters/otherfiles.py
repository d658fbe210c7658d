"""Reading torch pickles and npz archives as raw tensors; torch is imported only when needed."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydraopt.adapters.rawtensor import DAMAGED, NUMPY_CODES, RawTensor, TensorFile, refuse
from hydraopt.errors import AdapterFormatError

__all__ = ["open_npz", "open_torch"]


@dataclass(frozen=True)
class _Member:
    """The data of one array in an npz file, read when called."""

    path: Path
    member: str

    def __call__(self) -> bytes:
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
                shape, fortran, dtype = _read_npy_header(stream)
                data = stream.read()
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
            refuse(f"array {self.member!r} cannot be read", self.path, got=error, do=DAMAGED)
        except Exception as error:  # zlib.error has no public base but Exception
            refuse(f"array {self.member!r} cannot be read", self.path, got=error, do=DAMAGED)
        if fortran and len(shape) > 1:
            array = np.frombuffer(data, dtype=dtype).reshape(shape[::-1]).T
            return np.ascontiguousarray(array).tobytes()
        return data


def open_npz(path: Path, size: int) -> TensorFile:
    tensors: dict[str, RawTensor] = {}
    codes = {np.dtype(code): name for name, code in NUMPY_CODES.items() if name != "BF16"}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                with archive.open(info) as stream:
                    shape, _, dtype = _read_npy_header(stream)
                    header_bytes = stream.tell()
                if dtype not in codes:
                    refuse(f"dtype of array {name!r} is not supported", path, got=dtype)
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
                read = _Member(path, info.filename)
                tensors[name] = RawTensor(name, codes[dtype], shape, path, read)
    except AdapterFormatError:
        raise
    except Exception as error:  # zipfile and numpy raise a dozen types for damaged input
        refuse("not a readable npz file", path, got=f"{type(error).__name__}: {error}", do=DAMAGED)
    return TensorFile(path, tensors)


def _read_npy_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    return shape, fortran, dtype


def open_torch(path: Path, size: int) -> TensorFile:
    try:
        import torch
    except ImportError:
        refuse(
            "reading a torch file needs torch, which is not installed",
            path,
            do="Install torch, or convert the file to safetensors",
        )
    # The zip container can be mapped; the older bare pickle has to be read whole.
    mappable = zipfile.is_zipfile(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)
    except Exception as error:  # torch raises whatever its unpickler met
        refuse(
            "torch cannot load this file as plain weights",
            path,
            got=f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}",
            do="A file that needs code to load is refused for safety; a damaged one has to be "
            "downloaded or saved again. Prefer safetensors",
        )
    if not isinstance(content, Mapping):
        refuse("file is not a map from names to tensors", path, got=type(content).__name__)
    names = {
        torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16",
        torch.int32: "I32", torch.int64: "I64", torch.float16: "F16", torch.bfloat16: "BF16",
        torch.float32: "F32", torch.float64: "F64",
    }  # fmt: skip
    tensors: dict[str, RawTensor] = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            refuse(
                f"entry {name!r} is not a named tensor",
                path,
                got=type(value).__name__,
                do="Save the adapter's state dict alone",
            )
        if value.dtype not in names or value.layout != torch.strided:
            refuse(f"dtype of tensor {name!r} is not supported", path, got=value.dtype)
            # A view may claim far more elements than its storage holds (stride 0).
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            refuse(f"tensor {name!r} is larger than its storage", path, got=tuple(value.shape))
        tensors[name] = RawTensor(name, names[value.dtype], tuple(value.shape), path, _Torch(value))
    return TensorFile(path, tensors)


@dataclass(frozen=True)
class _Torch:
    """The bytes of a torch tensor."""

    tensor: Any

    def __call__(self) -> bytes:
        import torch

        flat = self.tensor.detach().contiguous().reshape(-1)
        data: NDArray[np.uint8] = flat.view(torch.uint8).numpy()
        return data.tobytes()
