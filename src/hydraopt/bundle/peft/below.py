"""Weights of the layers below an adapter, which PEFT saves whole for heads and embeddings.

PEFT never trains them, so a copy of the base's own weight carries nothing: formats without a place
for it lose nothing. A copy that was coded with a loss must not take the place of the base's own
weight, which is exact; where embeddings are tied, PEFT would also change the input embedding.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np

from hydraopt.adapters.basefiles import open_base
from hydraopt.adapters.keys import PREFIX
from hydraopt.adapters.rawtensor import RawTensor
from hydraopt.bundle.peft.tensors import nearest
from hydraopt.bundle.task import TaskAdapter
from hydraopt.bundle.tensors import DENSE_DTYPES, HEADS, TensorEntry
from hydraopt.errors import UsageError

__all__ = ["Base", "is_of_base", "layer_below", "left_to_base", "rounded_copy", "weights_at_hand"]

Base = str | os.PathLike[str] | Mapping[str, RawTensor] | None

_END: Final = ".base_layer.weight"
# What rounding a coded tensor to its own type adds to its error.
_ROUNDING: Final = {"F16": 2.0**-11, "BF16": 2.0**-8}
_GRID: Final = 1.05
"""Factor between an error and the one that the manifest may state, on its grid of 4.4 %."""


def layer_below(task: TaskAdapter, key: str) -> str | None:
    """Return the path of the module whose layer has this extra as its weight, if there is one."""
    path = _path(key)
    return path if key.endswith(_END) and path in task.modules else None


def rounded_copy(entry: TensorEntry) -> bool:
    """Return True if a coded tensor is such a copy, with a loss and without a reference."""
    return entry.kind == "saved" and entry.base is None and entry.key.endswith(_END)


def left_to_base(task: TaskAdapter, base: Mapping[str, RawTensor] | None) -> frozenset[str]:
    """Return the keys of coded copies for which exports leave the weight to the base.

    base: tensors of the base model. A copy that differs from them by more than its error stays,
        because the adapter was trained on another weight. Without them no copy stays.
    """
    entries = (task.manifest.tensors[i] for i in task.entry.tensors)
    copies = [entry.key for entry in entries if rounded_copy(entry)]
    if base:
        copies = [key for key in copies if is_of_base(task, key, base, _path(key))]
    return frozenset(copies)


def _path(key: str) -> str:
    return key.removeprefix(PREFIX).removesuffix(_END)


def weights_at_hand(base: Base) -> Mapping[str, RawTensor]:
    """Return the tensors of a base model's folder, or those given; none if none can be read."""
    if isinstance(base, Mapping):
        return base
    if base is not None and Path(base).is_dir():
        with suppress(UsageError):
            return open_base(base) or {}
    return {}


def is_of_base(
    task: TaskAdapter, key: str, base: Mapping[str, RawTensor], path: str | None = None
) -> bool:
    """Return True if an extra equals the base's weight of the layer, as far as the bundle holds it.

    key: an extra of :func:`layer_below`.
    base: tensors by their names in the base's files, in which the path may lack its first part.
    path: path of the module there, if it differs.

    Either tensor may be rounded to the dtype of the other, because the model may have been loaded
    so for training.
    """
    name = f"{path or layer_below(task, key)}.weight"
    heads = sorted(f"{head}.weight" for head in HEADS)
    names = (name, name.partition(".")[2], *(heads if name in heads else ()))
    theirs = next((base[x] for x in names if x in base), None)
    own = task.extras[key]
    if (
        theirs is None
        or theirs.shape != own.shape
        or not {theirs.dtype, own.dtype} <= set(DENSE_DTYPES)
    ):
        return False
    if own.dtype == theirs.dtype and own.raw() == theirs.raw():
        return True
    if key in task.tensor_errors:
        a, b = own.numpy(), theirs.numpy()
        within = _GRID * task.tensor_errors[key] + _ROUNDING.get(own.dtype, 0)
        return bool(np.linalg.norm(a - b) <= within * np.linalg.norm(b))
    each = ((own, theirs), (theirs, own))
    return any(nearest(x.float64(), y.dtype) == y.raw() for x, y in each)
