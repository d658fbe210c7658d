"""Tensors of a file by name, read lazily and with numpy alone: safetensors, torch pickles, npz.

Nothing a file claims is believed before it is checked against the file's size: headers are
validated whole, tensors are read one at a time, and every way a file can be wrong ends in
AdapterFormatError.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hydraopt.adapters.tensors import (
    TensorFile,
    open_safetensors,
    refuse,
)
from hydraopt.files import open_regular

if TYPE_CHECKING:
    pass


def _open_npz(path: Path, size: int) -> TensorFile:
    from hydraopt.adapters.archives import open_npz  # few adapters need it

    return open_npz(path, size)


def _open_torch(path: Path, size: int) -> TensorFile:
    from hydraopt.adapters.archives import open_torch  # few adapters need it

    return open_torch(path, size)


_OPENERS: Final = {
    ".safetensors": open_safetensors,
    ".npz": _open_npz,
    ".bin": _open_torch,
    ".pt": _open_torch,
    ".pth": _open_torch,
}
WEIGHT_SUFFIXES: Final = tuple(_OPENERS)
_LFS_MARK: Final = b"version https://git-lfs"


def open_tensors(path: str | os.PathLike[str]) -> TensorFile:
    """Open a tensor file by its suffix: .safetensors, .bin/.pt/.pth (torch), .npz.

    Only headers are read, except that torch files are unpickled (with ``weights_only``, so no code
    of the file runs) and mapped into memory.

    Raises AdapterFormatError for anything missing, empty, truncated, inconsistent, or unsafe.
    """
    where = Path(path)
    opener = _OPENERS.get(where.suffix.lower())
    if opener is None:
        refuse(
            "not a kind of tensor file that can be read",
            where,
            got=where.suffix or "no suffix",
            expected=".safetensors, .bin, .pt, .pth or .npz",
        )
    try:
        with open_regular(where) as stream:
            size, head = os.fstat(stream.fileno()).st_size, stream.read(64)
    except OSError as error:
        refuse("file cannot be read", where, got=error, do="Check the path and its permissions")
    if not head:
        refuse("file is empty", where, got="0 bytes", do="Download or save the adapter again")
    if head.startswith(_LFS_MARK):
        refuse(
            "file is a Git LFS pointer, not the weights it stands for",
            where,
            do="Run `git lfs pull` in that repository, or download the file itself",
        )
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        refuse("file is a web page, not weights", where, do="Download the file itself")
    return opener(where, size)
