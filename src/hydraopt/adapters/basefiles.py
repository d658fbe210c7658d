"""Tensors of the base model, read from its weight files on demand."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hydraopt.adapters.rawtensor import RawTensor
from hydraopt.adapters.tensorfile import open_tensors
from hydraopt.errors import AdapterFormatError, UsageError, explain

__all__ = ["BaseTensors", "open_base"]

BaseTensors = Mapping[str, RawTensor]
"""Tensors of the base model by the names in its weight files."""

_WEIGHTS: Final = ("*.safetensors", "pytorch_model*.bin")


def open_base(base: str | os.PathLike[str] | BaseTensors | None) -> BaseTensors | None:
    """Return the tensors of a transformers folder or of one weight file; reads headers only.

    Given tensors, and None, are returned unchanged.

    Raises UsageError for a folder without weight files and for files that cannot be read.
    """
    if base is None or isinstance(base, Mapping):
        return base
    place = Path(base)
    files = [place] if place.is_file() else []
    for pattern in _WEIGHTS if place.is_dir() else ():
        files = files or sorted(place.glob(pattern))
    if not files:
        raise UsageError(
            explain(
                "the base model has no weight files",
                file=place,
                expected=f"a folder with one of {', '.join(_WEIGHTS)}",
                do="Give the folder that transformers loads",
            )
        )
    tensors: dict[str, RawTensor] = {}
    for file in files:
        try:
            tensors.update(open_tensors(file))
        except AdapterFormatError as error:
            raise UsageError(error.within("the base model cannot be read: ")) from error
    return tensors
