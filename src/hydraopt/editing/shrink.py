"""Shrink: a smaller bundle from a bundle, without the originals.

The decoded factors take the place of the adapters; what was carried bit by bit is carried on. The
errors in the new manifest are against the originals as far as they can be known: what the first
merge left and what the second adds are independent noise, so their squares add (an estimate, and
the recipe says so).
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time

from hydraopt.adapters.basefiles import BaseTensors
from hydraopt.bundle.reader import Bundle
from hydraopt.collection.opening import open_bundle
from hydraopt.collection.output import check_output, core_name
from hydraopt.compress.measure import Measure, measure_named
from hydraopt.editing.held import against_originals, decoded_set, lost_harm
from hydraopt.engines.engine import Engine
from hydraopt.errors import BudgetError, UsageError, explain
from hydraopt.files.apart import check_apart
from hydraopt.merging.align import MergeSet
from hydraopt.merging.budget import Limit, MeanError, Size
from hydraopt.merging.merge import MergeResult, Solved, write
from hydraopt.merging.options import DEFAULT_MEASURE, MergeOptions
from hydraopt.merging.outcome import Job
from hydraopt.merging.recipe import forms_in, shrink_recipe
from hydraopt.merging.solving import solve
from hydraopt.progress import Progress

__all__ = ["shrink"]


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
        solution = solve(job, budget, options)
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
