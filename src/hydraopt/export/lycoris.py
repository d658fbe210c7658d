"""Factors of LoHa and LoKr as LyCORIS' own tensors; see hydraopt.adapters.lycoris for the formulas.

The scale is inside W1's first half, or W2's where W1 is whole, and alpha equals the rank, so that
programs which divide otherwise, or apply the scale twice (lycoris-lora 4.1.3, when it merges LoHa
or LoKr), come to the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from hydraopt.adapters.rawtensor import RawTensor
from hydraopt.bundle.peft.tensors import rounded
from hydraopt.bundle.task import TaskAdapter
from hydraopt.export.stored import Stored, check_padded

__all__ = ["product_tensors"]

_LOHA = ("hada_w{}_a", "hada_w{}_b")
_LOKR = ("lokr_w{}_a", "lokr_w{}_b")


def product_tensors(task: TaskAdapter, factors: Iterable[Stored]) -> dict[str, RawTensor]:
    """Return the tensors of the products' low-rank factors, and the original's alphas if any.

    factors: modules of layout "factor". Both factors of a product have one rank in the file, the
    larger of the two, padded with zeros, and so has a Tucker core beside them.
    Raises ExportError for an export far larger than the bundle.
    """
    origin = task.config.get("hydraopt")
    origin = origin if isinstance(origin, Mapping) else {}
    by_path: dict[str, list[Stored]] = {}
    for x in factors:
        by_path.setdefault(x.module.stem, []).append(x.folded())
    ranks = {path: _rank(task, path, members) for path, members in by_path.items()}
    for path, members in by_path.items():
        check_padded(task, members, ranks[path])
    result: dict[str, RawTensor] = {}
    for path, members in by_path.items():
        for x in members:
            names = _LOHA if x.module.entrywise else _LOKR
            own = x.padded(ranks[path])
            for name, values, dtype in zip(
                names, (own.b, own.a), reversed(own.dtypes), strict=True
            ):
                key = f"{path}.{name.format(own.module.group + 1)}"
                result[key] = rounded(key, values, dtype, task.name)
        if origin.get("alphas", True):
            key = f"{path}.alpha"
            result[key] = rounded(key, np.array(float(ranks[path])), "F32", task.name)
    return result


def _rank(task: TaskAdapter, path: str, members: Iterable[Stored]) -> int:
    core = task.extras.get(f"{path}.lokr_t2")
    beside = core.shape[0] if core is not None and core.shape else 1
    return max(beside, *(x.rank for x in members))
