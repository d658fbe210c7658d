"""Shrink: a smaller bundle from a bundle, without the originals.

The decoded factors take the place of the adapters; what was carried bit by bit is carried on. The
errors in the new manifest are against the originals as far as they can be known: what the first
merge left and what the second adds are independent noise, so their squares add (an estimate, and
the recipe says so).
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hydraopt.adapters.basefiles import BaseTensors
from hydraopt.adapters.rawtensor import RawTensor
from hydraopt.bundle.reader import Bundle, open_bundle
from hydraopt.bundle.spec import Manifest
from hydraopt.bundle.task import TaskAdapter
from hydraopt.compress.measure import Measure, measure_named
from hydraopt.errors import BudgetError, UsageError, explain
from hydraopt.files.apart import check_apart
from hydraopt.linalg.shapes import Factors
from hydraopt.merging.align import MergeSet
from hydraopt.merging.budget import MeanError, Size, parse_size
from hydraopt.merging.dense import TensorMatrices
from hydraopt.merging.merge import DEFAULT_MEASURE, MergeResult, write
from hydraopt.merging.outcome import Job
from hydraopt.merging.recipe import ShrinkRecipe
from hydraopt.merging.solving import Options, solve
from hydraopt.progress import Progress

__all__ = ["shrink"]


@dataclass(frozen=True)
class _DecodedFactors:
    """Factors of one module out of a bundle's decoded tasks."""

    path: str
    tasks: tuple[tuple[int, TaskAdapter], ...]

    def __call__(self) -> Iterator[tuple[int, Factors]]:
        for content, task in self.tasks:
            yield content, task.factors()[self.path]


def _merge_set(bundle: Bundle) -> MergeSet:
    manifest = bundle.manifest
    if any(task.lossless for task in manifest.tasks):
        raise UsageError(
            explain(
                "a lossless bundle holds the adapters themselves",
                file=bundle.path,
                do="Export its tasks and merge them to the size you want",
            )
        )
    # A task keeps what it has decoded: its stream is read once, however many passes there are.
    firsts: dict[int, TaskAdapter] = {}
    for entry in manifest.tasks:
        if entry.content is not None and entry.content not in firsts:
            firsts[entry.content] = bundle[entry.name]
    readers = tuple(
        _DecodedFactors(
            module.path,
            tuple((c, task) for c, task in sorted(firsts.items()) if module.path in task.modules),
        )
        for module in manifest.modules
    )
    return MergeSet(
        manifest.modules,
        readers,
        tuple(dataclasses.replace(task, carried=()) for task in manifest.tasks),
        tuple(manifest.configs),
        tuple(bundle[task.name].carried for task in manifest.tasks),
        manifest.base_model,
        sum(task.numbers for task in manifest.tasks),
        (),
        manifest.tensors,
        tuple(_matrices(bundle, firsts)),
    )


def _matrices(bundle: Bundle, firsts: Mapping[int, TaskAdapter]) -> Iterator[TensorMatrices]:
    """The coded tensors of a bundle's decoded tasks."""
    holders: dict[int, list[tuple[int, RawTensor]]] = {}
    for content, task in sorted(firsts.items()):
        coded = task.coded_tensors()
        for i in task.entry.tensors:
            tensor = coded[bundle.manifest.tensors[i].key]
            holders.setdefault(i, []).append((content, tensor))
    for i, entry in enumerate(bundle.manifest.tensors):
        held = holders.get(i, [])
        contents, tensors = tuple(x for x, _ in held), tuple(x for _, x in held)
        yield TensorMatrices(entry, contents, tensors, bundle.base_tensor(i))


def shrink(
    bundle: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    size: str | int | None = None,
    error: float | None = None,
    measure: str | Measure = DEFAULT_MEASURE,
    base: str | os.PathLike[str] | BaseTensors | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> MergeResult:
    """Write a smaller bundle with the tasks of ``bundle`` to ``output``; the originals are not
    needed.

    size: as in :func:`hydraopt.merge` (percent of the original adapters' fp16 bytes). error: mean
    relative error that shrinking may add, relative to what the bundle holds. One of the two. base:
    the base model's folder or tensors, where tasks hold differences from them.
    Raises BudgetError if the bundle is no larger than that already, and a HydraoptError for
    anything wrong, before ``output`` is touched.
    """
    started = time.monotonic()
    if (size is None) == (error is None):
        raise UsageError(explain("shrink needs one limit", expected="either a size or an error"))
    chosen = measure_named(measure) if isinstance(measure, str) else measure
    before = open_bundle(bundle, base)
    check_apart(output, [bundle])
    pieces = _merge_set(before)
    budget: Size | MeanError
    if error is not None:
        budget = MeanError(error)
    else:
        budget = Size(parse_size(size or 0, pieces.fp16_bytes))
        _check_smaller(before, budget)
    recipe = ShrinkRecipe(before.manifest.recipe, chosen.name, budget.name, float(budget.limit))
    job, solution = Job.of(pieces, recipe), None
    if pieces.contents:
        solution = solve(job, budget, Options(chosen, threads=threads, progress=progress))
    added = job.manifest(solution.draft if solution else None)
    manifest = _against_originals(added, before.manifest)
    return write(output, job, solution, chosen, budget, started, manifest)


def _check_smaller(bundle: Bundle, budget: Size) -> None:
    if budget.limit < bundle.size:
        return
    raise BudgetError(
        explain(
            "the bundle is not larger than that",
            file=bundle.path,
            got=f"{bundle.size:,} bytes",
            expected=f"more than {budget.limit:,} bytes",
            do="Copy it as it is, or merge the original adapters for a better one",
        )
    )


def _against_originals(added: Manifest, before: Manifest) -> Manifest:
    """The manifest ``added``, whose errors are against the bundle before, with estimates of the
    errors against what that was made of.

    Nobody has seen the answers of what was coded again, so no task states its harm any more.  The
    curve of a task is about its original, and stays.
    """
    old = {task.name: task for task in before.tasks}
    whole = {task.name: task.error for task in before.tasks}
    tasks = tuple(
        dataclasses.replace(
            task,
            error=math.hypot(task.error, whole[task.name]),
            errors=tuple(map(math.hypot, task.errors, old[task.name].errors)),
            tensor_errors=tuple(map(math.hypot, task.tensor_errors, old[task.name].tensor_errors)),
            harm=None,
        )
        for task in added.tasks
    )
    return dataclasses.replace(added, tasks=tasks)
