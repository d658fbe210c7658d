"""Read torch pickles and npz archives as raw tensors.

A pickle of a few bytes can ask for gigabytes, so its instructions are read before it is run: which
functions it calls, and which numbers it names.
"""

from __future__ import annotations

import math
import pickletools
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Final, cast

import numpy as np
from numpy.typing import NDArray

from hydraopt.adapters.tensors import (
    DAMAGED,
    NUMPY_CODES,
    RawTensor,
    TensorFile,
    refuse,
)
from hydraopt.errors import AdapterFormatError, HydraoptError, require

if TYPE_CHECKING:
    import torch


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
    """Return the dtype of a name in :data:`hydraopt.adapters.tensors.DTYPE_BYTES`."""
    return _by_name()[name]


def dtype_name(dtype: torch.dtype) -> str | None:
    """Return the safetensors name of a dtype; None for an unsupported one."""
    return next((name for name, mine in _by_name().items() if mine is dtype), None)


# What a state dict is made of. torch's own list is longer: a bytearray of a stated size is on it.
_FUNCTIONS: Final = re.compile(
    r"collections OrderedDict"
    r"|torch\._utils _rebuild_(?:tensor|tensor_v2|tensor_v3|parameter)"
    r"|torch(?:\.storage)? \w*Storage"
    r"|torch (?:Size|u?int\d+|bfloat16|float\w*|bool|half|double|device)"
    r"|torch\.serialization _get_layout"
)
_INTEGERS: Final = ("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4")
_REMEMBER: Final = ("BINPUT", "LONG_BINPUT", "MEMOIZE", "PUT", "DUP")
# Other ways to call something.
_OTHERS: Final = ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX", "OBJ")
_FREE: Final = 1 << 20
# RuntimeError: of a member that is encrypted.
_UNREADABLE: Final = (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile)
_SAFETY: Final = (
    "A file that needs code to load is refused for safety; a damaged one has to be downloaded or "
    "saved again. Prefer safetensors"
)


def open_torch(path: Path, size: int) -> TensorFile:
    """Return the tensors of a torch file, mapped into memory.

    size: bytes of the file. Raises AdapterFormatError for what is not plain weights, for a file
    that claims more numbers than it has bytes, and for torch's container before version 1.6.
    """
    require("torch", file=path)
    _check_archive(path, size)
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises whatever its unpickler met
        refuse(
            "torch cannot load this file as plain weights",
            path,
            got=f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}",
            do=_SAFETY,
        )
    if not isinstance(content, Mapping):
        got = type(content).__name__
        refuse("file is not a map from names to tensors", path, got=got, do=_SAFETY)
    return TensorFile(path, {name: _tensor(name, x, path) for name, x in content.items()})


def _tensor(name: object, value: Any, path: Path) -> RawTensor:
    import torch

    if not isinstance(name, str) or not isinstance(value, torch.Tensor):
        refuse(
            f"entry {str(name)[:80]!r} is not a named tensor",
            path,
            got=type(value).__name__,
            do="Save the adapter's state dict alone",
        )
    where = f"tensor {name[:200]!r}"
    dtype = dtype_name(value.dtype)
    if dtype is None or value.layout != torch.strided or value.device.type != "cpu":
        got = f"{value.dtype}, {value.layout}, {value.device}"
        refuse(f"dtype of {where} is not supported", path, got=got, do="Save it again in float32")
    # A view may claim far more elements than its storage holds (stride 0).
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        refuse(f"{where} is larger than its storage", path, got=tuple(value.shape), do=DAMAGED)
    tensor = RawTensor(name, dtype, tuple(value.shape), path, _Torch(value))
    tensor.check_shape()
    return tensor


def _check_archive(path: Path, size: int) -> None:
    """Check every member of a torch file, which is a zip.

    torch stores members uncompressed, so together they are no larger than the file.
    """
    try:
        if not zipfile.is_zipfile(path):
            refuse(
                "not a torch archive, or one of torch before 1.6",
                path,
                expected="a zip, as torch.save writes it",
                do="Load it with torch and save it again, as safetensors; download a damaged one",
            )
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            whole = sum(x.file_size for x in members)
            packed = [x.filename for x in members if x.compress_type != zipfile.ZIP_STORED]
            if packed or whole > size:
                refuse(
                    "members of the torch file are packed, or larger than the file",
                    path,
                    got=f"{whole} bytes in a file of {size}",
                    do=DAMAGED,
                )
            for member in members:
                if member.filename.endswith(".pkl"):
                    with archive.open(member) as stream:
                        _check_pickle(stream, path, size)
    except _UNREADABLE as error:
        if isinstance(error, HydraoptError):
            raise
        refuse("not a readable torch archive", path, got=error, do=DAMAGED)


class _Capped:
    """Stream whose reads are limited to its length, because a pickle states any length."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream, self._most = stream, most
        self.readline, self.tell = stream.readline, stream.tell

    def read(self, count: int) -> bytes:
        return self._stream.read(min(count, self._most))


def _check_pickle(stream: IO[bytes], path: Path, size: int) -> None:
    """Check one pickle.

    Storages state their sizes, and views of them their shape, as numbers: together not more than
    eight times the bytes of the file.
    """
    numbers, last = 0, ""
    for code, argument, _ in pickletools.genops(cast("IO[bytes]", _Capped(stream, size))):
        if code.name in ("GLOBAL", "INST") and not _FUNCTIONS.fullmatch(cast("str", argument)):
            _refuse_code(path, str(argument))
        # torch never remembers a number to name it again.
        if code.name in _OTHERS or (last in _INTEGERS and code.name in _REMEMBER):
            _refuse_code(path, f"{last} {code.name}")
        if code.name in _INTEGERS:
            numbers += abs(cast("int", argument))
        last = code.name
    if numbers > 8 * size + _FREE:
        refuse(
            "the pickle claims more numbers than the file has bytes",
            path,
            got=f"{numbers if numbers < 1 << 63 else 'more than 2^63'} in {size} bytes",
            do=DAMAGED,
        )


def _refuse_code(path: Path, what: str) -> None:
    what = what.replace(" ", ".")[:80]
    refuse("torch cannot load this file as plain weights", path, got=what, do=_SAFETY)


@dataclass(frozen=True)
class _Torch:
    """Bytes of a torch tensor."""

    tensor: Any

    def __call__(self) -> bytes:
        import torch

        flat = self.tensor.detach().contiguous().reshape(-1)
        data: NDArray[np.uint8] = flat.view(torch.uint8).numpy()
        return data.tobytes()


_FREE_IN_NPZ: Final = 64 << 20
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
            if whole > _FREE_IN_NPZ + _RATIO * size:
                refuse(
                    "the npz file unpacks to far more than it has bytes",
                    path,
                    got=f"{whole} bytes of {size}",
                    expected=f"at most {_FREE_IN_NPZ + _RATIO * size}",
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
