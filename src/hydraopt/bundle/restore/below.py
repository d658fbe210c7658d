"""The weight of the layer below a pair, which PEFT saves whole for heads and embeddings.

It is never trained. So where it is the base's own it says nothing, and formats that have no place
for it lose nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from hydraopt.adapters.basefiles import open_base
from hydraopt.adapters.keys import PREFIX
from hydraopt.adapters.rawtensor import RawTensor
from hydraopt.bundle.restore.tensors import nearest
from hydraopt.bundle.tensors import DENSE_DTYPES, HEADS
from hydraopt.errors import UsageError

if TYPE_CHECKING:
    from hydraopt.bundle.task import TaskAdapter

__all__ = ["Base", "is_of_base", "layer_below", "weights_at_hand"]

Base = str | os.PathLike[str] | Mapping[str, RawTensor] | None

_END: Final = ".base_layer.weight"
# What rounding a coded tensor to its own type adds to its error.
_ROUNDING: Final = {"F16": 2.0**-11, "BF16": 2.0**-8}
_GRID: Final = 1.05
"""Errors are stated on a grid of 4.4 %."""


def layer_below(task: TaskAdapter, key: str) -> str | None:
    """The path of the task's module whose layer has this extra for its weight, if it is one."""
    path = key.removeprefix(PREFIX).removesuffix(_END)
    return path if key.endswith(_END) and path in task.modules else None


def weights_at_hand(base: Base) -> Mapping[str, RawTensor]:
    """The tensors of a base model's folder, or those given; none where none can be read."""
    if isinstance(base, Mapping):
        return base
    if base is not None and Path(base).is_dir():
        with suppress(UsageError):
            return open_base(base) or {}
    return {}


def is_of_base(
    task: TaskAdapter, key: str, base: Mapping[str, RawTensor], path: str | None = None
) -> bool:
    """Whether an extra is the base's weight of the layer, as far as the bundle holds it.

    key: an extra of :func:`layer_below`.  base: by names of the base's files, in which the path may
    lack its first part.  path: of the module there, if it is another.
    Either may be rounded to the type of the other, as the model was loaded for training.
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
