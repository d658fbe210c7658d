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
from collections.abc import Iterator
from typing import Final

from hydraopt.adapters.basefiles import BaseTensors
from hydraopt.bundle.reader import Bundle
from hydraopt.collection.opening import open_bundle
from hydraopt.collection.output import check_output, core_name
from hydraopt.compress.measure import Measure, measure_named
from hydraopt.editing.held import against_originals, decoded_set, lost_harm
from hydraopt.engines.engine import Engine
from hydraopt.errors import BudgetError, UsageError, explain
from hydraopt.files.apart import check_apart
from hydraopt.harm.stored import StoredCurves
from hydraopt.harm.trials import with_core
from hydraopt.merging.align import MergeSet
from hydraopt.merging.budget import Limit, MeanError, Size
from hydraopt.merging.draft import Draft
from hydraopt.merging.merge import MergeResult, Solved, write
from hydraopt.merging.options import DEFAULT_MEASURE
from hydraopt.merging.outcome import Job
from hydraopt.merging.recipe import ShrinkRecipe, forms_in
from hydraopt.merging.search import Solution
from hydraopt.merging.sizes import (
    PASSES,
    SIZES,
    CodedSize,
    coded_size,
    coded_sizes,
    passes_within_reach,
)
from hydraopt.merging.solving import Options, solve
from hydraopt.notes import Note
from hydraopt.progress import Progress
from hydraopt.values import counted

__all__ = ["shrink", "shrunk_sizes"]

_DRAWN: Final = 0.95, 0.15
"""Largest and smallest size of a curve, as shares of the bundle's bytes."""
_SHARED_OUT: Final = 4
"""Sizes of a curve where each is shared out by stored curves of harm."""
_PASSES: Final = 12
"""Usual number of passes to share out one size."""


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

    A size is shared out by the curves of harm that the bundle holds, if a merge has measured them.
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
    solution, curves = None, StoredCurves(before.manifest)
    if pieces.contents:
        forms = forms_in(before.manifest.recipe)
        options = Options(chosen, forms, workers=workers, progress=progress)
        solution = _solved(job, budget, options, before, curves)
    if error is not None:
        shrunk = job.size(solution.draft if solution else None)
        _check_smaller(before, shrunk, "Allow a larger error")
    result = write(output, Solved(job, chosen, budget, solution), started)
    return dataclasses.replace(result, notes=(*result.notes, *_notes(before, budget, curves)))


def _job(
    before: Bundle,
    pieces: MergeSet,
    measure: Measure,
    budget: Size | MeanError,
    core_file: str | None = None,
) -> Job:
    """Return the job of shrinking a bundle, whose errors are stated against the originals."""
    recipe = ShrinkRecipe(before.manifest.recipe, measure.name, budget.name, float(budget.limit))
    told = functools.partial(against_originals, before=before.manifest, names=set(before))
    return dataclasses.replace(Job.of(pieces, recipe, core_file), told=told)


def shrunk_sizes(
    before: Bundle, *, workers: int | Engine | None = None, progress: Progress | None = None
) -> list[CodedSize]:
    """Return sizes that :func:`shrink` gives, by falling size; each is coded, nothing is written.

    workers, progress: as of :func:`shrink`. Fewer sizes where they would take too many passes, none
    where even two would. Raises UsageError for a bundle that shrink refuses, and BudgetError for
    one in which nothing is coded that could be smaller.
    """
    pieces, curves = _merge_set(before), StoredCurves(before.manifest)
    chosen, forms = measure_named(DEFAULT_MEASURE), forms_in(before.manifest.recipe)
    options = Options(chosen, forms, workers=workers, progress=progress)
    if not pieces.contents:
        return []

    def make(budget: Size) -> CodedSize:
        job = _job(before, pieces, chosen, budget)
        return coded_size(job, _solved(job, budget, options, before, curves).draft)

    most, passes = (_SHARED_OUT, _PASSES) if curves.tasks() else (SIZES, PASSES)
    largest, smallest = (share * before.size for share in _DRAWN)
    return coded_sizes(make, largest, smallest, passes_within_reach(passes * pieces.numbers, most))


def _notes(before: Bundle, budget: Size | MeanError, curves: StoredCurves) -> Iterator[Note]:
    """Yield notes on the use and the loss of the harm that was measured before."""
    count = len(curves.tasks())
    if isinstance(budget, Size) and count:
        tasks = counted(count, "task")
        text = f"the size was shared out by the stored curves of harm of {tasks}"
        yield Note("curves_used", text, ", ".join(sorted(curves.tasks())))
    yield from lost_harm(before.manifest, set(before))


def _solved(
    job: Job, budget: Size | MeanError, options: Options, before: Bundle, curves: StoredCurves
) -> Solution[Draft]:
    """Search the draft, by the bundle's stored curves for a size, if it has any."""
    if isinstance(budget, MeanError) or not curves.tasks():
        return solve(job, budget, options)
    held = {name: size for name, size in _bytes_of(before).items() if name in curves.tasks()}
    made = curves.solve(job, budget, options, held)
    return Solution(made.draft, made.passes)


def _bytes_of(bundle: Bundle) -> dict[str, float]:
    """Return the bytes of each task's stream and of its share of the core.

    More bytes than these hardly bring a task nearer to its original.
    """
    sizes = bundle.tensor_bytes
    own = {name: size for name, size in sizes.items() if name.startswith("task/")}
    held = dict(zip(own, with_core(list(own.values()), sizes["shared"]).tolist(), strict=True))
    tasks = (task for task in bundle.manifest.tasks if task.content is not None)
    return {task.name: held[f"task/{task.content}"] for task in tasks}


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
