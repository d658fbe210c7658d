"""HydraOpt as published, or another method: adapters in, a bundle with what it makes of them out.

The bundle is lossless in what the method made: its tensors in fp16 (or fp32), those that tasks
share once, each task's scales in its config, and the errors against the original adapters in the
manifest. So ``inspect``, ``verify``, ``export``, ``eval`` and ``attach`` read it as any other.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hydraopt.adapters import Adapter
from hydraopt.bundle.spec import Manifest
from hydraopt.collection.output import check_output, core_name, written
from hydraopt.files.apart import check_apart
from hydraopt.files.url import place_of
from hydraopt.linalg.norms import relative_error
from hydraopt.linalg.shapes import Factors
from hydraopt.merging.align import align
from hydraopt.merging.outcome import Job, StrPath, Written, inputs_of, load
from hydraopt.merging.recipe import method_recipe
from hydraopt.methods.apply import apply, relative_importance
from hydraopt.methods.hydra import check_counts
from hydraopt.methods.registry import Method, method_named

__all__ = ["Combined", "combine"]


@dataclass(frozen=True, kw_only=True)
class Combined(Written):
    """Result of a merging method.

    errors: errors of the numbers as stored.
    method, options: the method that ran, and its options.
    objective: sum_t w_t |dW_t - dW~_t|^2 / sum_t w_t |dW_t|^2 with w_t the task's importance
        (default 1) over |dW_t|^2. HydraOpt minimises it; it is also reported for methods that
        minimise something else.
    """

    method: str
    options: Mapping[str, Any]
    objective: float


def combine(
    adapters: StrPath | Iterable[StrPath | Adapter],
    output: StrPath,
    method: str | Method = "hydraopt",
    *,
    weights: Mapping[str, float] | None = None,
    dtype: str = "float16",
    same_base: bool = False,
    alpha: float | None = None,
    **options: Any,
) -> Combined:
    """Run a method and write what it makes as one bundle.

    adapters, same_base, alpha: as in :func:`hydraopt.merge`. method: a name, or a Method. weights:
    by task; for HydraOpt how much a task's relative error counts, 1 where it is not named; for
    other methods the weights of their sums, one for every task. dtype: "float16" or "float32".
    options: those of the method; for HydraOpt the number of ``heads`` and their ``rank``
    (:func:`hydraopt.methods.hydra.hydra`).

    Raises a HydraoptError for anything wrong with the input, before ``output`` is touched.
    """
    started = time.monotonic()
    row = method_named(method)
    group = load(adapters, same_base, alpha)
    loaded = group.adapters
    check_apart(output, inputs_of(loaded))
    check_output(output)
    if options.get("heads") is not None:
        check_counts(options["heads"], options.get("rank") or 1, len(loaded))
    options = {name: x.item() if isinstance(x, np.generic) else x for name, x in options.items()}
    made = apply(loaded, row, dtype=dtype, weights=weights, same_base=same_base, **options)
    errors, by_module = _errors(loaded, made)
    pieces = align(made, group.base_model, lossless=True)
    numbers = {adapter.name: adapter.numbers for adapter in loaded}
    job = Job.of(pieces, method_recipe(row.name, options, dtype), core_name(output))
    manifest = _measured(job.manifest(None), errors, by_module, numbers)
    counts = relative_importance((weights or {}) if row.weighs_errors else {}, errors)
    squares = np.square(list(errors.values()))
    return Combined(
        path=place_of(output),
        size=written(job.packed(None, manifest), output),
        fp16_bytes=2 * sum(numbers.values()),
        errors=errors,
        seconds=time.monotonic() - started,
        notes=(*group.notes, *dict.fromkeys(note for adapter in made for note in adapter.notes)),
        method=row.name,
        options=options,
        objective=float(np.average(squares, weights=counts)),
    )


def _measured(
    manifest: Manifest,
    errors: Mapping[str, float],
    by_module: Mapping[str, Mapping[str, float]],
    numbers: Mapping[str, int],
) -> Manifest:
    """Return the manifest with errors against the originals, and the numbers that these hold."""
    tasks = []
    for task in manifest.tasks:
        mine = by_module[task.name]
        own = tuple(mine[manifest.modules[i].path] for i in task.modules)
        tasks.append(
            dataclasses.replace(
                task, error=errors[task.name], errors=own, numbers=numbers[task.name]
            )
        )
    return dataclasses.replace(manifest, tasks=tuple(tasks))


def _errors(
    originals: Sequence[Adapter], made: Sequence[Adapter]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Relative errors of each task and of each of its modules."""
    totals: dict[str, float] = {}
    modules: dict[str, dict[str, float]] = {}
    for old, new in zip(originals, made, strict=True):
        wrong = whole = 0.0
        mine = modules[old.name] = {}
        for path, module in old.modules.items():
            true, merged = (Factors.of(*x.factors()) for x in (module, new.modules[path]))
            mine[path] = relative_error(true, merged)
            size = true.squared_norm()
            # Where nothing was to be kept, what is there now is all error.
            wrong += mine[path] ** 2 * size if size else merged.squared_norm()
            whole += size
        totals[old.name] = math.sqrt(wrong / whole) if whole else float(wrong > 0)
    return totals, modules
