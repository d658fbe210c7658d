"""Merge: many adapters in, one bundle out. The table of contents of the library.

    read -> align -> (plan -> encode -> write streams) until the budget is met -> write the bundle

``merge`` starts from adapters, ``shrink`` from a bundle; both hand a Job to ``solve``.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, cast

from hydraopt.adapters import Adapter
from hydraopt.adapters.basefiles import BaseTensors, open_base
from hydraopt.bundle.harm import Harm
from hydraopt.coding.forms import FORMS
from hydraopt.compress.measure import Measure, measure_named
from hydraopt.engines.engine import Engine
from hydraopt.errors import UsageError, explain
from hydraopt.files.apart import check_apart
from hydraopt.files.url import place_of
from hydraopt.merging.align import MergeSet, align
from hydraopt.merging.budget import (
    Budget,
    HarmLimit,
    MeanError,
    Size,
    WorstError,
    parse_harm,
    parse_size,
)
from hydraopt.merging.draft import Draft
from hydraopt.merging.finish import Finishers, finished
from hydraopt.merging.harm.checks import check_choices, check_prompted, coded_names
from hydraopt.merging.harm.judging import AnswerJudge, HarmJudge
from hydraopt.merging.harm.solve import HarmSolution, solve_by_harm
from hydraopt.merging.notes import notes_of
from hydraopt.merging.outcome import Job, Loaded, Measured, StrPath, Written, inputs_of, load
from hydraopt.merging.output import check_output, core_name, written
from hydraopt.merging.portable import engine_of, workers_for
from hydraopt.merging.recipe import MergeRecipe
from hydraopt.merging.refit import Refitter
from hydraopt.merging.search import Solution
from hydraopt.merging.solving import Options, check_forms, solve
from hydraopt.merging.weights import Sensed, Sensitivity, importances, sensed
from hydraopt.progress import Progress

__all__ = [
    "DEFAULT_MAX_ERROR",
    "DEFAULT_MEASURE",
    "Limits",
    "MergeResult",
    "begun_job",
    "merge",
    "recipe_of",
    "weigh",
    "with_curves",
    "write",
]

DEFAULT_MAX_ERROR: Final = 0.03
"""Default limit on the error of the worst task; docs/evidence/index.md says why."""
DEFAULT_MEASURE: Final = "bias-aware"
PERHAPS_ALL: Final = 0.6
"""Share of the fp16 bytes above which a size may hold every bit.
Trained 16-bit numbers take more."""
_ALL_FITS: Final = "every bit fits into the size that was asked for: nothing is lost"
_NO_CURVES: Final = (
    "the curves of harm are not kept: so small a bundle has no room for them, and a later shrink "
    "shares out by errors alone"
)


@dataclass(frozen=True, kw_only=True)
class MergeResult(Written):
    """Result of a merge or a shrink.

    forms: number of records by form.
    measure: name of the measure of errors.
    price: harm that a bit was allowed to cost.
    passes: number of coding passes.
    harms: measured harm by task, for tasks that had prompts.
    """

    forms: Mapping[str, int]
    measure: str
    price: float
    passes: int
    harms: Mapping[str, Harm] = field(default_factory=dict)


def merge(
    adapters: StrPath | Iterable[StrPath | Adapter],
    output: StrPath,
    *,
    size: str | int | None = None,
    error: float | None = None,
    max_error: float | None = None,
    lossless: bool = False,
    importance: Mapping[str, float] | None = None,
    fair: bool = False,
    measure: str | Measure = DEFAULT_MEASURE,
    sensitivity: Sensed = None,
    harm: str | None = None,
    judge: AnswerJudge | None = None,
    refitter: Refitter | None = None,
    forms: Sequence[str] | None = None,
    same_base: bool = False,
    alpha: float | None = None,
    exact: Sequence[str] = (),
    base: StrPath | BaseTensors | None = None,
    workers: int | Engine | None = None,
    progress: Progress | None = None,
) -> MergeResult:
    """Merge adapters of one base model into one bundle at ``output``; where that ends in a slash or
    is a folder, into a core file and task files.

    adapters: paths, globs, NAME=PATH strings or Adapters. One limit at most: size ("5%" of the
    inputs' fp16 bytes, "3MB", or bytes; never exceeded, and lossless where that fits), error (mean
    relative Frobenius error over tasks), max_error (of the worst task; default 0.03), harm ("1%" of
    each task's answers may change, or "0.01nats" of KL an answer; needs a judge), or lossless.
    importance: weight of a task's error, default 1. fair: tasks come as near to one error, or under
    a judge to one harm, as can be. measure, sensitivity: see compress.measure. judge: measures
    harm, which the bundle keeps (that of hydraopt.harm.onlooker.Onlooker). refitter: trains
    coded parts, see merging.refit. forms: those permitted, default all.
    same_base: take base models written differently as one. alpha: of files that state none. exact:
    patterns with * and ? of keys of tensors to keep bit by bit. base: its folder or tensors; what
    takes the place of one is coded as the difference, and readers need it too. workers: processes
    at most, or an Engine. progress: called with (stage, done, total).

    The same content gives the same bytes. Raises a HydraoptError before ``output`` is touched.
    """
    started, core, other = time.monotonic(), core_name(output), measure != DEFAULT_MEASURE
    limits = Limits(size, error, max_error, lossless, harm)
    helpers = Finishers(judge, refitter)
    choices = {"importance": importance, "fair": fair, "forms": forms, "exact": exact}
    limits.check(helpers, {**choices, "sensitivity": sensitivity, "measure": other})
    chosen = measure_named(measure) if isinstance(measure, str) else measure
    loaded = _loaded(adapters, output, same_base, alpha)
    with _started(loaded, 1 if lossless else workers) as engine:
        pieces = _aligned(loaded, lossless, exact, open_base(base))
        budget = limits.budget(pieces.fp16_bytes)
        every, job = _begun(loaded, pieces, budget, core)
        weighed = weigh(importance, None if every else sensitivity, pieces, budget, fair, judge)
        options = Options(chosen, tuple(forms or FORMS), fair, engine, progress, *weighed)
        recipe = job.recipe if every else recipe_of(options, budget, lossless, helpers)
        job, solution = _solved(dataclasses.replace(job, recipe=recipe), budget, options, judge)
    if solution:
        job, solution = finished(job, solution, budget, loaded.adapters, helpers, progress)
    return write(output, job, solution, chosen, None if lossless else budget, started)


def lossless_job(
    loaded: Loaded, pieces: MergeSet, budget: Budget | HarmLimit, core_file: str | None = None
) -> Job | None:
    """Return the job that keeps every bit, if the size has room for it; else None.

    pieces: as they would be coded.
    """
    if not isinstance(budget, Size) or budget.limit <= PERHAPS_ALL * pieces.fp16_bytes:
        return None
    every = align(loaded.adapters, loaded.base_model, lossless=True)
    every = dataclasses.replace(every, notes=(*loaded.notes, *every.notes, _ALL_FITS))
    recipe = MergeRecipe(DEFAULT_MEASURE, "lossless", DEFAULT_MAX_ERROR, tuple(FORMS))
    whole = Job.of(every, recipe, core_file)
    return whole if whole.size(None) <= budget.limit else None


def _begun(
    loaded: Loaded, pieces: MergeSet, budget: Budget | HarmLimit, core_file: str | None
) -> tuple[bool, Job]:
    """Return whether every bit fits into the size, and the lossless job or :func:`begun_job`'s."""
    every = lossless_job(loaded, pieces, budget, core_file)
    return every is not None, every or begun_job(pieces, budget, core_file)


def begun_job(pieces: MergeSet, budget: Budget | HarmLimit, core_file: str | None = None) -> Job:
    """The job, with the shortest recipe that its budget can have. Raises BudgetError for a size
    that has no room for anything."""
    shortest = MergeRecipe("", budget.name, float(budget.limit), ())
    job = Job.of(pieces, shortest, core_file)
    job.check_room(budget)
    return job


def weigh(
    importance: Mapping[str, float] | None,
    sensitivity: Sensed,
    pieces: MergeSet,
    budget: Budget | HarmLimit,
    fair: bool,
    judge: HarmJudge | None,
) -> tuple[Mapping[str, float], Sensitivity]:
    """The importance, and what is seen; UsageError before it is, where the importance does not fit
    the tasks and the budget, or a limit on harm has no prompts of a task."""
    counts = importance or {}
    check_choices(budget, fair, counts)
    importances(pieces, counts)
    if isinstance(budget, HarmLimit):
        check_prompted(coded_names(pieces), judge.tasks() if judge else ())
    return counts, sensed(sensitivity)


@contextmanager
def _started(loaded: Loaded, workers: int | Engine | None) -> Iterator[Engine]:
    """The engine, whose workers start while the adapters are still looked at."""
    engine, adapters = engine_of(workers), loaded.adapters
    if engine.remote:
        yield engine
        return
    numbers = sum(adapter.numbers for adapter in adapters)
    modules = {path for adapter in adapters for path in adapter.modules}
    with engine.ahead(workers_for(engine, numbers, len(modules))) as begun:
        yield begun


def recipe_of(
    options: Options, budget: Budget | HarmLimit, lossless: bool, helpers: Finishers
) -> MergeRecipe:
    """Return the recipe that records these options, limit and helpers."""
    limit = "lossless" if lossless else budget.name, budget.limit
    seen = len(options.sensitivity)
    return MergeRecipe(
        options.measure.name,
        *limit,
        tuple(options.forms),
        options.fair,
        seen,
        judged=helpers.judged,
        unit=budget.unit if isinstance(budget, HarmLimit) else "",
        answer_tokens=helpers.answer_tokens,
    )


def _solved(
    job: Job, budget: Budget | HarmLimit, options: Options, judge: HarmJudge | None
) -> tuple[Job, Solution[Draft] | None]:
    """The draft that meets the budget, by harm where there is a judge and it is free to share out,
    None where nothing is coded; and the job with the curves of its trials."""
    if not job.pieces.contents:
        return job, None
    if judge is None:
        assert not isinstance(budget, HarmLimit)
        return job, solve(job, budget, options)
    if isinstance(budget, MeanError | WorstError):
        return job, solve(job, budget, options)
    return with_curves(job, solve_by_harm(job, budget, options, judge))


def with_curves(job: Job, made: HarmSolution) -> tuple[Job, Solution[Draft]]:
    """The job with the curves that a search by harm found, and what it chose."""
    curves = {name: Measured(None, curve) for name, curve in made.curves.items()}
    if not made.room:
        pieces = dataclasses.replace(job.pieces, notes=(*job.pieces.notes, _NO_CURVES))
        job = dataclasses.replace(job, pieces=pieces)
    return dataclasses.replace(job, measured=curves), Solution(made.draft, made.passes)


def _aligned(
    loaded: Loaded, lossless: bool, exact: Sequence[str], base: BaseTensors | None
) -> MergeSet:
    """The merge set, with what was noted when the adapters were read."""
    if isinstance(exact, str):  # its characters would be the patterns, and * is one
        raise UsageError(explain("exact is a list of patterns", got=repr(exact)))
    pieces = align(loaded.adapters, loaded.base_model, lossless=lossless, exact=exact, base=base)
    return dataclasses.replace(pieces, notes=(*loaded.notes, *pieces.notes))


@dataclass(frozen=True)
class Limits:
    """Limits set by the user, as :func:`merge` takes them. Raises UsageError for more than one."""

    size: str | int | None
    error: float | None
    max_error: float | None
    lossless: bool
    harm: str | None

    def __post_init__(self) -> None:
        limits = {"size": self.size, "error": self.error, "max-error": self.max_error}
        limits |= {"lossless": self.lossless or None, "harm": self.harm}
        given = [name for name, value in limits.items() if value is not None]
        if len(given) > 1:
            got = ", ".join(given)
            raise UsageError(explain("more than one limit", got=got, expected="one"))

    def check(self, helpers: Finishers, choices: Mapping[str, object]) -> None:
        """Raise UsageError for helpers that do not fit the limit, or each other, and for choices
        that a lossless merge has no use for."""
        helpers.check(self.harm is not None)
        check_forms(cast("Sequence[str]", choices["forms"] or ()))
        if self.lossless:
            _refuse_idle({**choices, **vars(helpers)})

    def budget(self, fp16_bytes: int) -> Budget | HarmLimit:
        """The budget of adapters of these bytes; that of a lossless merge binds nothing."""
        if self.harm is not None:
            return parse_harm(self.harm)
        if self.size is not None:
            return Size(parse_size(self.size, fp16_bytes))
        if self.error is not None:
            return MeanError(self.error)
        return WorstError(DEFAULT_MAX_ERROR if self.max_error is None else self.max_error)


def _refuse_idle(choices: Mapping[str, object]) -> None:
    """Raise UsageError for choices that a lossless merge has no use for."""
    idle = [name for name, value in choices.items() if value]
    if idle:
        raise UsageError(
            explain(
                "lossless cannot be combined with these options",
                got=", ".join(idle),
                do="Leave these out, or give a size or an error instead",
            )
        )


def _loaded(
    adapters: StrPath | Iterable[StrPath | Adapter],
    output: StrPath,
    same_base: bool,
    alpha: float | None,
) -> Loaded:
    """The adapters. Raises UsageError for an output that is read or cannot be written."""
    check_output(output)
    loaded = load(adapters, same_base, alpha)
    check_apart(output, inputs_of(loaded.adapters))
    return loaded


def write(
    output: StrPath,
    job: Job,
    solution: Solution[Draft] | None,
    measure: Measure,
    budget: Budget | HarmLimit | None,
    started: float,
) -> MergeResult:
    """Write the bundle, unless it would be larger than the budget, and say what was made.

    solution: None where nothing is coded. started: by time.monotonic.
    """
    draft = solution.draft if solution else None
    manifest = job.manifest(draft)
    packed = job.packed(draft, manifest)
    if isinstance(budget, Size) and (least := job.size(draft, manifest)) > budget.limit:
        raise job.too_small(budget, least)
    fp16 = job.pieces.fp16_bytes
    notes = *job.pieces.notes, *notes_of(manifest, budget, packed.size if draft else 0, fp16)
    return MergeResult(
        path=place_of(output),
        size=written(packed, output),
        fp16_bytes=fp16,
        errors={task.name: task.error for task in manifest.tasks},
        seconds=time.monotonic() - started,
        notes=notes,
        forms=draft.forms if draft else {},
        measure=measure.name,
        price=draft.price if draft else 0.0,
        passes=solution.passes if solution else 0,
        harms={task.name: task.harm for task in manifest.tasks if task.harm},
    )
