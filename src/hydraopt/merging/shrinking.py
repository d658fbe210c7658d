"""Shrink: a smaller bundle from a bundle, without the originals.

The decoded factors take the place of the adapters; what was carried bit by bit is carried on. The
errors in the new manifest are against the originals as far as they can be known: what the first
merge left and what the second adds are independent noise, so their squares add (an estimate, and
the recipe says so).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from hydraopt.adapters import BaseTensors, RawTensor
from hydraopt.bundle import (
    Bundle,
    Manifest,
    ModuleEntry,
    TaskAdapter,
    TaskEntry,
    check_output,
    core_name,
    open_bundle,
)
from hydraopt.codec import Measure, measure_named
from hydraopt.errors import BudgetError, UsageError, explain
from hydraopt.files import check_apart
from hydraopt.merging.alignment import DecodedModule, MergeSet, ModuleFactors, moved
from hydraopt.merging.job import Job
from hydraopt.merging.limits import Limit, MeanError, Size, forms_in, shrink_recipe
from hydraopt.merging.options import DEFAULT_MEASURE, MergeOptions
from hydraopt.merging.pipeline import MergeResult, Solved, write
from hydraopt.merging.solving import solve_budget
from hydraopt.merging.tensors import TensorMatrices
from hydraopt.merging.workers import Engine
from hydraopt.notes import Note
from hydraopt.progress import Progress


def decoded_set(bundle: Bundle, names: Collection[str], *, modules_only: bool = False) -> MergeSet:
    """Return the merge set of a bundle's coded tasks, as they decode.

    Modules and coded tensors that none of these tasks has are left out, because a core may be
    larger than what is left of its tasks. Carried tensors, harm and history stay.

    modules_only: leave out all coded tensors beside the modules, which may need the base model.
    """
    manifest = bundle.manifest
    entries = [task for task in manifest.tasks if task.name in names]
    if modules_only:
        entries = [dataclasses.replace(x, tensors=(), tensor_errors=()) for x in entries]
    numbers: dict[int, int] = {}
    # A task keeps what it has decoded: its stream is read once, however many passes there are.
    firsts: dict[int, TaskAdapter] = {}
    for entry in entries:
        if entry.content is not None and entry.content not in numbers:
            firsts[len(numbers)] = bundle[entry.name]
            numbers[entry.content] = len(numbers)
    modules = sorted({i for entry in entries for i in entry.modules})
    tensors = sorted({i for entry in entries for i in entry.tensors})
    starts = {content: task.initial for content, task in firsts.items() if task.entry.start}
    # A start over which no record is written is of no use.
    starts = {content: initial for content, initial in starts.items() if initial}
    at_module, at_tensor = ({x: i for i, x in enumerate(kept)} for kept in (modules, tensors))
    tasks = []
    for entry in entries:
        content = None if entry.content is None else numbers[entry.content]
        start = entry.start if content in starts else None
        entry = dataclasses.replace(entry, content=content, carried=(), start=start)
        tasks.append(moved(entry, at_module, at_tensor))
    used = [manifest.modules[i] for i in modules]

    def factors_of(module: ModuleEntry) -> ModuleFactors:
        held = ((i, x) for i, x in firsts.items() if module.path in x.modules)
        return ModuleFactors(tuple((i, DecodedModule(x, module.path)) for i, x in held))

    return MergeSet(
        tuple(used),
        tuple(map(factors_of, used)),
        tuple(tasks),
        tuple(manifest.configs),
        tuple(bundle[entry.name].carried for entry in entries),
        manifest.base_model,
        sum(entry.numbers for entry in entries),
        (),
        tuple(manifest.tensors[i] for i in tensors),
        tuple(_matrices(bundle, firsts, tensors)) if tensors else (),
        starts=starts,
    )


def _matrices(
    bundle: Bundle, firsts: Mapping[int, TaskAdapter], tensors: Sequence[int]
) -> Iterator[TensorMatrices]:
    """Yield the coded tensors of a bundle's decoded tasks."""
    holders: dict[int, list[tuple[int, RawTensor]]] = {}
    for content, task in firsts.items():
        coded = task.coded_tensors()
        for i in task.entry.tensors:
            tensor = coded[bundle.manifest.tensors[i].key]
            holders.setdefault(i, []).append((content, tensor))
    for i in tensors:
        contents, held = zip(*holders[i], strict=True)
        yield TensorMatrices(bundle.manifest.tensors[i], contents, held, bundle.base_tensor(i))


def against_originals(added: Manifest, before: Manifest, names: Collection[str]) -> Manifest:
    """Return the manifest ``added`` with the errors of some tasks against the originals.

    Their errors are against the bundle ``before``, so the result is an estimate. These tasks state
    no harm, because the answers of the new coding were not measured.

    names: tasks that were coded again.
    """
    old = {task.name: task for task in before.tasks}

    def whole(task: TaskEntry) -> TaskEntry:
        if task.name not in names:
            return task
        first = old[task.name]
        modules = _errors(first.modules, first.errors, before.modules)
        tensors = _errors(first.tensors, first.tensor_errors, before.tensors)
        more = (modules[added.modules[i]] for i in task.modules)
        dense = (tensors[added.tensors[i]] for i in task.tensors)
        return dataclasses.replace(
            task,
            error=math.hypot(task.error, first.error),
            errors=tuple(map(math.hypot, task.errors, more)),
            tensor_errors=tuple(map(math.hypot, task.tensor_errors, dense)),
            harm=None,
        )

    return dataclasses.replace(added, tasks=tuple(map(whole, added.tasks)))


def _errors(
    indices: Sequence[int], errors: Sequence[float], table: Sequence[Any]
) -> dict[Any, float]:
    """By what they are of: its number may be another one in another manifest."""
    return {table[i]: error for i, error in zip(indices, errors, strict=True)}


def lost_harm(before: Manifest) -> Iterator[Note]:
    """Yield a note if the bundle before states harm, which no longer holds."""
    if any(task.harm for task in before.tasks):
        text = (
            "the harm that was stated is not this bundle's: hydraopt verify BUNDLE ADAPTERS "
            "--base BASE --prompts DIR measures it"
        )
        yield Note("harm_outdated", text)


def _merge_set(bundle: Bundle) -> MergeSet:
    if any(task.lossless for task in bundle.manifest.tasks):
        raise UsageError(
            explain(
                "a lossless bundle holds the adapters themselves",
                file=bundle.path,
                do="Export its tasks and merge them to the size you want",
            )
        )
    return decoded_set(bundle, set(bundle))


def shrink(
    bundle: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    size: str | int | None = None,
    error: float | None = None,
    measure: str | Measure = DEFAULT_MEASURE,
    base: str | os.PathLike[str] | BaseTensors | None = None,
    workers: int | Engine | None = None,
    progress: Progress | None = None,
) -> MergeResult:
    """Write a smaller bundle with the tasks of ``bundle``, without the originals.

    The forms stay those that the merge permitted. Give one limit.

    size: as in :func:`hydraopt.merge`; a percentage is of the original adapters' fp16 bytes.
    error: mean relative error that shrinking may add, relative to what the bundle holds.
    base: the base model's folder or tensors, if tasks hold differences from them.

    Raises BudgetError if the bundle is no larger than what would be written, and another
    HydraoptError for anything else that is wrong, before ``output`` is touched.
    """
    started = time.monotonic()
    limit = Limit(size, error)
    if limit.name is None:
        raise UsageError(explain("shrink needs one limit", expected="either a size or an error"))
    chosen = measure_named(measure) if isinstance(measure, str) else measure
    check_output(output)
    before = open_bundle(bundle, base)
    check_apart(output, [bundle])
    pieces = _merge_set(before)
    budget = limit.budget(pieces.fp16_bytes)
    assert isinstance(budget, Size | MeanError)
    if isinstance(budget, Size):
        _check_smaller(before, budget.limit, "Give a smaller size")
    job = _job(before, pieces, chosen, budget, core_name(output))
    solution = None
    if pieces.contents:
        forms = forms_in(before.manifest.recipe)
        options = MergeOptions(measure=chosen, forms=forms, workers=workers, progress=progress)
        solution = solve_budget(job, budget, options)
    if error is not None:
        shrunk = job.size(solution.draft if solution else None)
        _check_smaller(before, shrunk, "Allow a larger error")
    result = write(output, Solved(job, chosen, budget, solution), started)
    return dataclasses.replace(result, notes=(*result.notes, *lost_harm(before.manifest)))


def _job(
    before: Bundle,
    pieces: MergeSet,
    measure: Measure,
    budget: Size | MeanError,
    core_file: str | None = None,
) -> Job:
    """Return the job of shrinking a bundle, whose errors are stated against the originals."""
    recipe = shrink_recipe(before.manifest.recipe, measure.name, budget.name, float(budget.limit))
    restate = functools.partial(against_originals, before=before.manifest, names=set(before))
    return dataclasses.replace(Job.of(pieces, recipe, core_file), restate=restate)


def _check_smaller(bundle: Bundle, size: int, remedy: str) -> None:
    """Raise BudgetError unless what is to be written is smaller than the bundle."""
    if size < bundle.size:
        return
    raise BudgetError(
        explain(
            "the bundle would not become smaller",
            file=bundle.path,
            got=f"{size:,} bytes",
            expected=f"fewer than the {bundle.size:,} bytes of the bundle",
            do=f"{remedy}, or merge the original adapters again",
        )
    )
