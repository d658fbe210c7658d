"""Merge: many adapters in, one bundle out. The table of contents of the library.

    prepare: read the adapters and check the options
    solve:   align -> (plan -> encode -> streams) until the budget is met -> refit, measure harm
    write:   write the bundle

A plan is the first two steps. ``merge`` starts from adapters, ``shrink`` from a bundle; both hand a
Job to ``solving.solve``.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from hydraopt.adapters import Adapter
from hydraopt.adapters.basefiles import BaseTensors, open_base
from hydraopt.adapters.start import untraced
from hydraopt.bundle.harm import Harm
from hydraopt.bundle.spec import Manifest
from hydraopt.coding.forms import FORMS
from hydraopt.collection.output import check_output, core_name, written
from hydraopt.compress.measure import Measure
from hydraopt.engines.engine import Engine
from hydraopt.errors import BatchError, NumericalError
from hydraopt.files.apart import check_apart
from hydraopt.files.url import place_of
from hydraopt.merging.align import MergeSet, align
from hydraopt.merging.budget import Budget, HarmLimit, Limit, Size
from hydraopt.merging.dense import check_exact
from hydraopt.merging.draft import Solution, UnreadableError
from hydraopt.merging.finish import solved
from hydraopt.merging.look import Look
from hydraopt.merging.notes import notes_of
from hydraopt.merging.options import (
    DEFAULT_MAX_ERROR,
    DEFAULT_MEASURE,
    MergeOptions,
    check_prompted,
    coded_names,
)
from hydraopt.merging.outcome import (
    Job,
    LoadedAdapters,
    StrPath,
    Written,
    inputs_of,
    load,
)
from hydraopt.merging.recipe import merge_recipe
from hydraopt.merging.weights import check_importance, sensed
from hydraopt.notes import Note
from hydraopt.progress import Progress

__all__ = [
    "MergeResult",
    "Prepared",
    "Solved",
    "merge",
    "notes_on",
    "prepare",
    "solve",
    "write",
]

_PERHAPS_ALL: Final = 0.6
"""Share of the fp16 bytes above which a size may hold every bit.
Trained 16-bit numbers take more."""
_ALL_FITS: Final = Note(
    "all_fits", "every bit fits into the size that was asked for: nothing is lost"
)


@dataclass(frozen=True, kw_only=True)
class MergeResult(Written):
    """Result of a merge or a shrink.

    forms: number of records by form.
    measure: name of the measure of errors.
    price: cost of error that a bit was worth.
    passes: number of coding passes.
    harms: measured harm by task, for tasks that had prompts.
    """

    forms: Mapping[str, int]
    measure: str
    price: float
    passes: int
    harms: Mapping[str, Harm] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """Adapters that were read, and options that fit them.

    core_file: name of the core file if core and tasks go to separate files; otherwise None.
    """

    loaded: LoadedAdapters
    options: MergeOptions
    core_file: str | None


@dataclass(frozen=True)
class Solved:
    """Content of a bundle that is ready to be written.

    budget: the limit that it keeps; None for a lossless merge.
    solution: draft of the coded parts; None if nothing is coded.
    """

    job: Job
    measure: Measure
    budget: Budget | HarmLimit | None
    solution: Solution | None


def merge(
    adapters: StrPath | Iterable[StrPath | Adapter],
    output: StrPath,
    *,
    size: str | int | None = None,
    error: float | None = None,
    max_error: float | None = None,
    lossless: bool = False,
    harm: str | None = None,
    importance: Mapping[str, float] | None = None,
    fair: bool = False,
    measure: str | Measure = DEFAULT_MEASURE,
    look: Look | None = None,
    forms: Sequence[str] | None = None,
    same_base: bool = False,
    alpha: float | None = None,
    exact: Sequence[str] = (),
    base: StrPath | BaseTensors | None = None,
    trace: bool = True,
    workers: int | Engine | None = None,
    progress: Progress | None = None,
) -> MergeResult:
    """Merge adapters of one base model into one bundle.

    The same content gives the same bytes, on processors for which the BLAS library has the same
    kernels. Give one limit at most: size, error, max_error, lossless or harm; the default is a
    max_error of 0.03. The other options are described by
    :class:`hydraopt.merging.options.MergeOptions`.

    adapters: paths, globs, NAME=PATH strings or Adapters.
    output: file to write. If it ends in a slash or is a folder, a core file and task files.
    look: base model, which measures harm and sensitivities and trains coded parts. Default none.

    Raises a HydraoptError before ``output`` is touched.
    """
    started = time.monotonic()
    options = MergeOptions(
        limit=Limit(size, error, harm, lossless, max_error),
        importance=importance or {},
        fair=fair,
        measure=measure,
        look=look or Look(),
        forms=forms or tuple(FORMS),
        exact=exact,
        same_base=same_base,
        alpha=alpha,
        base=base,
        trace=trace,
        workers=workers,
        progress=progress,
    )
    return write(output, solve(prepare(adapters, options, output)), started)


def prepare(
    adapters: StrPath | Iterable[StrPath | Adapter],
    options: MergeOptions,
    output: StrPath | None = None,
) -> Prepared:
    """Read the adapters, and check the options against them.

    Raises a HydraoptError, among others for an output that is an input or cannot be written.
    """
    if output is not None:
        check_output(output)
    loaded = load(adapters, options.same_base, options.alpha)
    if output is not None:
        check_apart(output, inputs_of(loaded.adapters))
    options.budget(2 * sum(adapter.numbers for adapter in loaded.adapters))
    check_importance([adapter.name for adapter in loaded.adapters], options.importance)
    check_exact(loaded.adapters, options.exact)
    loaded = dataclasses.replace(loaded, adapters=options.traced(loaded.adapters))
    return Prepared(loaded, options, None if output is None else core_name(output))


def solve(prepared: Prepared) -> Solved:
    """Find the draft that meets the limit, refit its coded parts and measure its harm.

    A start stands for many numbers. If readers would refuse so many for the bytes there are, the
    adapters are coded without starts.

    Raises BudgetError for a limit that cannot be met, and whatever the look raises.
    """
    prepared = _looking_once(prepared)
    try:
        return _solve(prepared)
    except UnreadableError:
        adapters = [untraced(adapter) for adapter in prepared.loaded.adapters]
        if adapters == prepared.loaded.adapters:
            raise
        loaded = dataclasses.replace(prepared.loaded, adapters=adapters)
        return _solve(dataclasses.replace(prepared, loaded=loaded))


def _looking_once(prepared: Prepared) -> Prepared:
    """Return the same with a look that measures sensitivities once: that takes minutes."""
    look = prepared.options.look
    if not callable(look.sensitivity):
        return prepared
    look = dataclasses.replace(look, sensitivity=functools.cache(look.sensitivity))
    return dataclasses.replace(prepared, options=dataclasses.replace(prepared.options, look=look))


def _solve(prepared: Prepared) -> Solved:
    loaded, options = prepared.loaded, prepared.options
    lossless = options.limit.lossless
    pieces = _aligned(loaded, options)
    budget = options.budget(pieces.fp16_bytes)
    every = _lossless_job(prepared, pieces, budget)
    if every is not None:
        return Solved(every, options.weighing, budget, None)
    job = Job.of(pieces, options.recipe(budget, 0), prepared.core_file)
    job.check_room(budget)
    if isinstance(budget, HarmLimit):
        check_prompted(coded_names(pieces), options.look.tasks)
    seen = len(sensed(options.look.sensitivity)) if pieces.contents else 0
    job = dataclasses.replace(job, recipe=options.recipe(budget, seen))
    if not pieces.contents:
        return Solved(job, options.weighing, None if lossless else budget, None)
    job, solution = solved(job, budget, options, loaded.adapters)
    return Solved(job, options.weighing, budget, solution)


def _lossless_job(prepared: Prepared, pieces: MergeSet, budget: Budget | HarmLimit) -> Job | None:
    """Return the job that keeps every bit, if the size has room for it; else None.

    pieces: as they would be coded.
    """
    if not isinstance(budget, Size) or budget.limit <= _PERHAPS_ALL * pieces.fp16_bytes:
        return None
    loaded = prepared.loaded
    try:
        every = align(loaded.adapters, loaded.base_model, lossless=True)
    except (NumericalError, BatchError):
        return None  # lossless refuses tensors that are not finite; coding keeps them as they are
    every = dataclasses.replace(every, notes=(*loaded.notes, *every.notes, _ALL_FITS))
    recipe = merge_recipe(DEFAULT_MEASURE, "lossless", DEFAULT_MAX_ERROR)
    whole = Job.of(every, recipe, prepared.core_file)
    return whole if whole.size(None) <= budget.limit else None


def _aligned(loaded: LoadedAdapters, options: MergeOptions) -> MergeSet:
    """Return the merge set, with the notes on the reading of the adapters."""
    lossless, base = options.limit.lossless, open_base(options.base)
    model, exact = loaded.base_model, options.exact
    pieces = align(loaded.adapters, model, lossless=lossless, exact=exact, base=base)
    return dataclasses.replace(pieces, notes=(*loaded.notes, *pieces.notes))


def notes_on(solved: Solved, manifest: Manifest, size: int) -> tuple[Note, ...]:
    """Return the notes for the user. size: bytes of the bundle."""
    pieces, coded = solved.job.pieces, size if solved.solution else 0
    return *pieces.notes, *notes_of(manifest, solved.budget, coded, pieces.fp16_bytes)


def write(output: StrPath, solved: Solved, started: float) -> MergeResult:
    """Write the bundle, unless it would exceed its size, and return what was made.

    started: by time.monotonic.
    """
    job, solution = solved.job, solved.solution
    draft = solution.draft if solution else None
    manifest = job.manifest_within(solved.budget, draft)
    packed = job.packed(draft, manifest)
    return MergeResult(
        path=place_of(output),
        size=written(packed, output),
        fp16_bytes=job.pieces.fp16_bytes,
        errors={task.name: task.error for task in manifest.tasks},
        seconds=time.monotonic() - started,
        notes=notes_on(solved, manifest, packed.size),
        forms=draft.forms if draft else {},
        measure=solved.measure.name,
        price=draft.price if draft else 0.0,
        passes=solution.passes if solution else 0,
        harms={task.name: task.harm for task in manifest.tasks if task.harm},
    )
