"""A task of another tuner than LoRA, as PEFT holds it: the same settings, names and shapes.

Ranks and scales stay those of the config: a factor of less rank is padded with zeros, and the scale
is taken out of B again. So what is carried beside the factors, and depends on these settings, still
fits them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hydraopt.adapters.keys import PREFIX, parse
from hydraopt.adapters.rawtensor import RawTensor
from hydraopt.adapters.tunerfiles import factor_stems
from hydraopt.adapters.tuners import tuner_named
from hydraopt.bundle.peft.below import left_to_base
from hydraopt.bundle.peft.layout import balanced, check_numbers
from hydraopt.bundle.peft.tensors import dtype_named, rounded
from hydraopt.bundle.ranks import KeptRanks
from hydraopt.bundle.spec import ModuleEntry
from hydraopt.bundle.task import TaskAdapter
from hydraopt.errors import ExportError, explain
from hydraopt.linalg.shapes import Array, Factors

__all__ = ["check_tuner", "tuner_adapter"]


@dataclass(frozen=True)
class _StoredFactors:
    """Storage plan for the pair of one module.

    names: names of B, of A and of the tuner's other tensors.
    rank, scale: values in the config.
    """

    module: ModuleEntry
    names: tuple[str, ...]
    rank: int
    scale: float


def tuner_adapter(
    task: TaskAdapter, dtype: object, uniform_rank: bool
) -> tuple[dict[str, Any], dict[str, RawTensor]]:
    """Return config and tensors of a task whose config is of another tuner than LoRA.

    dtype, uniform_rank: as in :func:`hydraopt.bundle.peft.folder.export_peft`; one rank for all
    modules is refused, as it would be another config.

    Raises ExportError for what the tuner cannot hold, and for settings that make no sense.
    """
    kind = dtype_named(dtype, task.entry.dtype)
    if uniform_rank:
        name = tuner_named(task.config)
        raise _cannot(task, f"one rank for all modules is for LoRA, and this is {name}")
    tensors: dict[str, RawTensor] = {}
    left = left_to_base(task, task.bundle.base)
    extras = {key: tensor for key, tensor in task.extras.items() if key not in left}
    factors = task.factors()
    for stored in _planned(task, factors, extras):
        parts = (*_padded(factors, stored), np.ones((stored.rank, 1)))
        for key, values in zip(stored.names, parts, strict=False):
            tensors[key] = rounded(key, values, kind, task.name)
    config = {key: value for key, value in task.config.items() if key != "hydraopt"}
    if not config.get("base_model_name_or_path") and task.base_model:
        config["base_model_name_or_path"] = task.base_model
    return config, {**tensors, **extras}


def check_tuner(task: TaskAdapter) -> None:
    """Raise ExportError as :func:`tuner_adapter` does, except for numbers that overflow a dtype."""
    _planned(task, task.factors(), task.described.keys() - left_to_base(task, None))


def _planned(
    task: TaskAdapter, factors: Mapping[str, Factors], extras: Collection[str]
) -> list[_StoredFactors]:
    """Plan how each module of a task is stored.

    extras: names of the task's other tensors.
    """
    tuner = tuner_named(task.config)
    ranks = task.kept_ranks
    if not task.modules:
        planned = []
    elif tuner not in ("ADALORA", "LOHA", "LOKR"):
        raise _cannot(task, f"{tuner} has no low-rank modules", next(iter(task.modules)))
    elif ranks is None:
        raise _cannot(task, "the bundle does not state the ranks of its modules")
    else:
        planned = list(_adalora(task, ranks) if tuner == "ADALORA" else _factors(task, ranks))
    numbers, names = 0, set(extras)
    for stored in planned:
        module, k = stored.module, factors[stored.module.path].A.shape[0]
        if k > stored.rank:
            what = f"a module has {k} parts, and its config says rank {stored.rank}"
            raise _cannot(task, what, module.path)
        numbers += stored.rank * (module.m + module.n + len(stored.names) - 2)
        for name in stored.names:
            if name in names:
                raise _cannot(task, f"two tensors would have the name {name!r}")
            names.add(name)
    check_numbers(task, numbers)
    return planned


def _adalora(task: TaskAdapter, ranks: KeptRanks) -> Iterator[_StoredFactors]:
    for path, module in task.modules.items():
        if module.layout != "plain" or module.kind != "linear":
            raise _cannot(task, f"AdaLoRA has no {module.kind} of layout {module.layout}", path)
        inner = _inner(task, path)
        names = tuple(f"{PREFIX}{inner}.{part}" for part in ("lora_B", "lora_A", "lora_E"))
        yield _StoredFactors(module, names, *ranks.of(path))


def _factors(task: TaskAdapter, ranks: KeptRanks) -> Iterator[_StoredFactors]:
    ends = factor_stems(task.config)
    scaled: set[str] = set()
    for path, module in sorted(task.modules.items(), key=lambda x: (x[1].stem, x[1].group)):
        factor = path.rpartition("::")[2].partition(".")[0]
        if module.layout != "factor" or factor not in ends:
            raise _cannot(task, "a module is no factor of a product", path)
        inner = _inner(task, path)
        rank, scale = ranks.of(path)
        if module.stem in scaled:
            scale = 1.0
        scaled.add(module.stem)
        names = tuple(f"{PREFIX}{inner}.{end}" for end in ends[factor])
        yield _StoredFactors(module, names, rank, scale)


def _inner(task: TaskAdapter, path: str) -> str:
    """Return the path used in the tensors' names, with "base_layer" of nested wrappers."""
    key = parse(task.key(path, "A"))
    if key is None:
        raise _cannot(task, "the name of a tensor is none of PEFT's", path)
    return key.inner


def _padded(factors: Mapping[str, Factors], stored: _StoredFactors) -> tuple[Array, Array]:
    """Return (B, A) over the scale, (m, rank) and (rank, n), padded with zeros."""
    module = stored.module
    b, a = np.zeros((module.m, stored.rank)), np.zeros((stored.rank, module.n))
    pair = balanced(factors[module.path], stored.scale)
    k = pair.A.shape[0]
    b[:, :k], a[:k] = pair.B, pair.A
    return b, a


def _cannot(task: TaskAdapter, what: str, module: str | None = None) -> ExportError:
    return ExportError(
        explain(
            f"cannot be written as a PEFT adapter: {what}",
            adapter=task.name,
            module=module,
            do="Merge it with --lossless, or leave it out",
        )
    )
