"""Merge: prepare, solve, write. Many adapters in, one bundle out.

    prepare: read the adapters and check the options
    solve:   align -> (plan -> encode -> streams) until the budget is met -> refit, measure harm
    write:   write the bundle

A plan is the first two steps. ``merge`` starts from adapters, ``shrink`` from a bundle; both hand a
Job to ``solving.solve_budget``.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final, NamedTuple

from hydraopt.adapters import Adapter, BaseTensors, open_base, untraced
from hydraopt.bundle import (
    Harm,
    Manifest,
    TaskEntry,
    check_output,
    core_name,
    rounded_copy,
    written,
)
from hydraopt.codec import FORMS, Array, Measure
from hydraopt.errors import BatchError, NumericalError, UsageError, explain
from hydraopt.files import StrPath, check_apart, place_of
from hydraopt.merging.alignment import MergeSet, align
from hydraopt.merging.finish import solved
from hydraopt.merging.harmlimit import bytes_with_core
from hydraopt.merging.job import (
    Job,
    LoadedAdapters,
    Solution,
    TaskTrial,
    UnreadableError,
    Written,
    inputs_of,
    load,
)
from hydraopt.merging.limits import Budget, HarmLimit, Limit, Size, merge_recipe
from hydraopt.merging.options import (
    DEFAULT_HARM,
    DEFAULT_MAX_ERROR,
    DEFAULT_MEASURE,
    Look,
    MergeOptions,
    check_prompted,
    coded_names,
)
from hydraopt.merging.tensors import check_exact
from hydraopt.merging.weights import check_importance, sensed
from hydraopt.merging.workers import Engine
from hydraopt.notes import Note, listed
from hydraopt.progress import Progress

_NEARLY_ALL: Final = 0.9
"""Share of the fp16 bytes above which a note recommends lossless."""
_LITTLE: Final = 0.5
"""Relative error of a trained tensor from which on a note names it."""
_NAMED: Final = 5
"""Tasks that a note names."""


def notes_of(
    manifest: Manifest, budget: Budget | HarmLimit | None, coded: int = 0, fp16_bytes: int = 0
) -> Iterator[Note]:
    """Yield the notes.

    budget: the limit of the bundle; None for a lossless one.
    coded: bytes of the bundle; 0 if nothing is coded with a loss, or for a task alone.
    fp16_bytes: of the inputs.
    """
    yield from _left_out(manifest)
    yield from _copies_of_the_base(manifest)
    yield from _little_kept(manifest)
    yield from _few_answers(manifest, budget)
    if coded > _NEARLY_ALL * fp16_bytes:
        more = "; with more prompts the same limit may take fewer bytes"
        text = f"{coded:,} bytes are hardly less than fp16; --lossless often takes less"
        yield Note("large_size", text + (more if isinstance(budget, HarmLimit) else ""))


def _left_out(manifest: Manifest) -> Iterator[Note]:
    """Name tensors of which little or nothing is left, with their errors."""
    lost: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
    for task in manifest.tasks:
        for index, error in zip(task.tensors, task.tensor_errors, strict=True):
            entry = manifest.tensors[index]
            if error >= (_LITTLE if entry.needed else 1) and not rounded_copy(entry):
                text = f"{task.name}: {entry.key} (error {error:.2g})"
                lost[entry.needed].append((entry.key, text))
    do = "--exact keeps them bit by bit"
    if lost[True]:
        keys, texts = zip(*lost[True], strict=True)
        text = f"little is kept of trained tensors: {listed(texts, _NAMED)}; {do}"
        yield Note("tensors_hardly_kept", text, _every(keys))
    if lost[False]:
        keys, texts = zip(*lost[False], strict=True)
        text = (
            "nothing is kept of trained tensors that change less than their bytes are worth at "
            f"this size: {listed(texts, _NAMED)}; {do}"
        )
        yield Note("tensors_not_kept", text, _every(keys))


def _copies_of_the_base(manifest: Manifest) -> Iterator[Note]:
    """Name coded tensors that exports replace by the base's own."""
    copies = {i: x.key for i, x in enumerate(manifest.tensors) if rounded_copy(x)}
    if tasks := [task.name for task in manifest.tasks if copies.keys() & set(task.tensors)]:
        keys = _every(sorted(copies.values()))
        text = (
            f"{listed(tasks, _NAMED)}: {keys} is taken for a "
            "copy of the base's weight, which PEFT saves and does not train; it is coded with a "
            "loss, so exports use the base's own. If it differs from the base, give export --base, "
            "or keep it bit by bit with --exact"
        )
        yield Note("base_copies", text, keys)


def _little_kept(manifest: Manifest) -> Iterator[Note]:
    """Yield a note on tasks whose error is at least as large as everything that they change."""
    if beyond := [task.name for task in manifest.tasks if task.error >= 1]:
        count = len(manifest.tasks)
        if count == 1:
            text = f"the error of {beyond[0]} is 1 or more: score the task before you ship it"
            yield Note("large_error", text, beyond[0])
            return
        text = (
            f"the error of {listed(beyond, _NAMED)} (of {count} tasks) is 1 or more: "
            "score these tasks before you ship them"
        )
        yield Note("large_error", text, _every(beyond))


def _few_answers(manifest: Manifest, budget: Budget | HarmLimit | None) -> Iterator[Note]:
    """Yield a note on tasks with too few answers to check a limit on their share."""
    if not isinstance(budget, HarmLimit) or not budget.shares:
        return
    counts = {task.name: task.harm.answers for task in manifest.tasks if task.harm}
    if few := [name for name, count in counts.items() if count * budget.limit < 1]:
        wanted = math.ceil(1 / budget.limit)
        do = f"give at least {wanted} prompts for each task"
        if wanted > DEFAULT_HARM.prompts:
            do = f"give a larger limit, because at most {DEFAULT_HARM.prompts} prompts are measured"
        text = (
            f"{budget.text} is less than one answer of {listed(few, _NAMED)}: too few "
            f"prompts to predict the harm on other inputs; {do}"
        )
        yield Note("few_answers", text, _every(few))


def _every(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


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


class HarmUnit(NamedTuple):
    """Unit of a harm in tables and pictures.

    factor: multiplier of the number.
    unit: text after the number.
    quantity: name of the number.
    """

    factor: float
    unit: str
    quantity: str


HARM_UNITS: Mapping[str, HarmUnit] = {
    "answers": HarmUnit(100.0, "%", "share of answers that change"),
    "nats": HarmUnit(1.0, "nats", "KL an answer"),
}
"""Units by the kind of harm that a plan counts."""


@dataclass(frozen=True)
class PlannedTask:
    """Planned result for one task.

    size: bytes, including the task's share of the shared core.
    error: relative Frobenius error.
    harm: harm that the bundle will state; None without prompts.
    counted: harm as it is compared with a limit on harm; None for a size.
    trials: for a limit on harm, all measurements by falling size.
    """

    name: str
    size: float
    error: float
    harm: Harm | None
    counted: float | None = None
    trials: tuple[TaskTrial, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Planned result of a merge.

    limit: the limit asked for, as "size" or "harm".
    counted: kind of harm, "answers" that change or "nats" an answer. For a limit a standard error
        is added, and for answers the prediction from KL counts if it is higher.
    size: bytes of one file; a folder may have others.
    fp16_bytes: fp16 bytes of the inputs.
    notes: notes of the merge.
    refit: whether the merge would train coded parts after this.
    """

    SCHEMA: ClassVar[str] = "hydraopt.plan/1"
    limit: str
    value: float
    counted: str
    tasks: tuple[PlannedTask, ...]
    size: int
    fp16_bytes: int
    notes: tuple[Note, ...]
    refit: bool


def plan(adapters: StrPath | Iterable[StrPath | Adapter], options: MergeOptions) -> Plan:
    """Plan a merge with these options: the result for each task, and the trials that led to it.

    The plan does everything that a merge does except a refit, and writes nothing but the judge's
    cache. A merge of the same adapters to one file, without a refit, repeats no measurement and
    writes the file that was planned.

    options: with either a size or a limit on harm.

    Raises the same errors as a merge, and UsageError for other options and if there is nothing to
    plan.
    """
    if options.limit.name not in ("size", "harm"):
        raise UsageError(explain("a plan needs one limit", expected="a size or a harm"))
    refit = options.look.refit is not None
    options = replace(options, look=replace(options.look, refit=None))
    solved = solve(prepare(adapters, options))
    if solved.solution is None:
        lossless = solved.job.recipe.get("limit") == "lossless"
        got = "a size with room for every bit" if lossless else "no coded tensors"
        do = "Merge with it: the bundle has every bit" if lossless else None
        raise UsageError(explain("there is nothing to plan", got=got, do=do))
    assert solved.budget is not None
    draft, pieces = solved.solution.draft, solved.job.pieces
    manifest = solved.job.manifest_within(solved.budget, draft)
    sizes = bytes_with_core(draft)
    tasks = tuple(_planned(task, sizes, solved.solution) for task in manifest.tasks)
    whole = solved.job.size(draft, manifest)
    return Plan(
        solved.budget.name,
        float(solved.budget.limit),
        solved.budget.counted if isinstance(solved.budget, HarmLimit) else "answers",
        tasks,
        whole,
        pieces.fp16_bytes,
        notes_on(solved, manifest, whole),
        refit,
    )


def plan_limit(plan: Plan) -> str:
    """Return the limit of a plan in words.

    For example "5,000 bytes" or "1 % of each task's answers may change".
    """
    if plan.limit == "size":
        return f"{plan.value:,.0f} bytes"
    return HarmLimit(plan.value, plan.counted == "answers").words


def _planned(task: TaskEntry, sizes: Array, solution: Solution) -> PlannedTask:
    """Return the plan of one task.

    task: its entry in the future manifest. sizes (contents,): bytes with shares of the core.
    """
    if task.content is None:
        return PlannedTask(task.name, 0.0, task.error, None)
    planned = PlannedTask(task.name, float(sizes[task.content]), task.error, task.harm)
    if task.name not in solution.chosen:
        return planned
    counted = solution.chosen[task.name].counted
    return replace(planned, counted=counted, trials=solution.trials[task.name])
