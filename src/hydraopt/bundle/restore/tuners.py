"""A task of another tuner than LoRA, as PEFT holds it: the same settings, names and shapes.

Ranks and scales stay those of the config: a factor of less rank is padded with zeros, and the scale
is taken out of B again. So what is carried beside the factors, and depends on these settings, still
fits them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from hydraopt.adapters.keys import PREFIX, parse
from hydraopt.adapters.rawtensor import RawTensor
from hydraopt.adapters.tunerfiles import AdaLoraRule, factor_rule, factor_stems
from hydraopt.adapters.tuners import tuner_of
from hydraopt.bundle.restore.layout import balanced, check_numbers
from hydraopt.bundle.restore.tensors import dtype_named, rounded
from hydraopt.bundle.spec import ModuleEntry
from hydraopt.errors import ExportError, explain
from hydraopt.linalg.shapes import Array, Factors

if TYPE_CHECKING:
    from hydraopt.bundle.task import TaskAdapter

__all__ = ["tuner_adapter"]


def tuner_adapter(
    task: TaskAdapter, dtype: object, uniform_rank: bool
) -> tuple[dict[str, Any], dict[str, RawTensor]]:
    """Config and tensors of a task whose config is of another tuner than LoRA.

    dtype, uniform_rank: as in :func:`hydraopt.bundle.restore.peft.export_peft`; one rank for all
    modules is refused, as it would be another config.

    Raises ExportError for what the tuner cannot hold, AdapterFormatError for settings that no
    reader would have let in.
    """
    tuner = tuner_of(task.config, task.bundle.path)
    kind = dtype_named(dtype, task.entry.dtype)
    if uniform_rank:
        raise _cannot(task, f"one rank for all modules is for LoRA, and this is {tuner.name}")
    if tuner.name == "ADALORA":
        parts = _adalora(task)
    elif tuner.treatment == "factors":
        parts = _factors(task)
    elif task.modules:
        raise _cannot(task, f"{tuner.name} has no low-rank modules", next(iter(task.modules)))
    else:
        parts = iter(())
    tensors: dict[str, RawTensor] = {}
    for key, values in parts:
        tensors[key] = rounded(key, values, kind, task.name)
    twice = sorted(set(task.extras) & set(tensors))
    if twice:
        raise _cannot(task, f"two tensors would have the name {twice[0]!r}")
    config = {key: value for key, value in task.config.items() if key != "hydraopt"}
    if not config.get("base_model_name_or_path") and task.base_model:
        config["base_model_name_or_path"] = task.base_model
    return config, {**tensors, **task.extras}


def _adalora(task: TaskAdapter) -> Iterator[tuple[str, Array]]:
    rule = AdaLoraRule.of(task.config, task.bundle.path)
    for path, module in task.modules.items():
        if module.layout != "plain" or module.kind != "linear":
            raise _cannot(task, f"AdaLoRA has no {module.kind} of layout {module.layout}", path)
        inner = _inner(task, path)
        rank, scale = rule.rank(inner), rule.scale
        b, a = _padded(task, module, rank, scale)
        for part, values in (("lora_A", a), ("lora_B", b), ("lora_E", np.ones((rank, 1)))):
            yield f"{PREFIX}{inner}.{part}", values


def _factors(task: TaskAdapter) -> Iterator[tuple[str, Array]]:
    rule, names = factor_rule(task.config, task.bundle.path), factor_stems(task.config)
    scaled: set[str] = set()
    for path, module in sorted(task.modules.items(), key=lambda x: (x[1].stem, x[1].group)):
        factor = path.rpartition("::")[2].partition(".")[0]
        if module.layout != "factor" or factor not in names:
            raise _cannot(task, "a module is no factor of a product", path)
        inner = _inner(task, path)
        first = module.stem not in scaled
        scaled.add(module.stem)
        scale = rule.scale(inner) if first else 1.0
        for part, values in zip(
            names[factor], _padded(task, module, rule.rank(inner), scale), strict=True
        ):
            yield f"{PREFIX}{inner}.{part}", values


def _inner(task: TaskAdapter, path: str) -> str:
    """The path inside the tensors' names, "base_layer" of nested wrappers included."""
    key = parse(task.key(path, "A"))
    if key is None:
        raise _cannot(task, "the name of a tensor is none of PEFT's", path)
    return key.inner


def _padded(task: TaskAdapter, module: ModuleEntry, rank: int, scale: float) -> tuple[Array, Array]:
    """(B, A) over the scale, (m, rank) and (rank, n), zeros beyond the module's own parts."""
    factors = task.factors()[module.path]
    k = factors.A.shape[0]
    if k > rank:
        what = f"a module has {k} parts, and its config says rank {rank}"
        raise _cannot(task, what, module.path)
    check_numbers(task, rank * (module.m + module.n))
    b, a = np.zeros((module.m, rank)), np.zeros((rank, module.n))
    if scale:
        own = balanced(Factors(factors.B, factors.A), scale)
        b[:, :k], a[:k] = own.B, own.A
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
