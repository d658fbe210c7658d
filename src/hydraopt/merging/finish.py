"""Finish a solved draft: refit its coded parts and measure its harm.

The encoder rounds each module to be near its weights; who has the base model at hand can train all
parts of a task together, so that one mends what rounding did to another (see hydraopt.model.refit).
A refitted record keeps its parts' number, ways and spread classes, so it takes about the same
bytes, and neither the shared bases nor other tasks change. A budget is still kept: tasks go back to
what the encoder made where it would not be.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from hydraopt.adapters import Adapter
from hydraopt.bundle import TaskEntry
from hydraopt.codec import (
    Array,
    Aside,
    Chosen,
    ChunkWriter,
    CodedModule,
    Factors,
    Laid,
    PartsRecord,
    Place,
    one_blas_thread,
    sizes_of,
    squared_error,
    states_mode,
    thin,
    write_dense,
    write_record,
)
from hydraopt.errors import UsageError, explain
from hydraopt.merging.harmlimit import DecodedDraft, measure_tasks, solve_harm
from hydraopt.merging.job import Draft, Job, Solution, placeholder_harms
from hydraopt.merging.limits import Budget, HarmLimit, MeanError, Size
from hydraopt.merging.options import CodedModules, Look, MergeOptions, Refitter
from hydraopt.merging.solving import solve_at, solve_budget
from hydraopt.notes import Note, counted
from hydraopt.progress import Progress, silent


def solved(
    job: Job,
    limit: Budget | HarmLimit | float,
    options: MergeOptions,
    originals: Sequence[Adapter] = (),
) -> tuple[Job, Solution]:
    """Return the draft that keeps a limit, refitted and with its harm measured.

    limit: a number is a price of a bit, for one pass.
    options: the look measures the harm of its own tasks; its refit needs a budget and the
        originals.

    Returns also the job, with what the manifest is to say of harm and of the refit. Raises
    BudgetError for a limit that cannot be kept, and whatever the look raises.
    """
    look, progress = options.look, options.progress or silent
    if isinstance(limit, HarmLimit):
        solution = solve_harm(job, limit, options)
        return dataclasses.replace(job, harms=solution.harms), solution
    if isinstance(limit, Size):  # counts what the manifest will say of harm
        names = look.tasks & {task.name for task in job.pieces.tasks}
        job = dataclasses.replace(job, harms=placeholder_harms(sorted(names)))
    if isinstance(limit, float):
        return _measured(job, Solution(solve_at(job, limit, options), 1), look, progress)
    solution = solve_budget(job, limit, options)
    if look.refit is None:
        return _measured(job, solution, look, progress)
    by_name = {adapter.name: adapter for adapter in originals}
    job, draft = refitted(job, solution.draft, by_name, look.refit, limit)
    changed = _other_streams(job, solution.draft, draft)
    return _measured(job, dataclasses.replace(solution, draft=draft), look, progress, changed)


def _measured(
    job: Job, solution: Solution, look: Look, progress: Progress, changed: Collection[str] = ()
) -> tuple[Job, Solution]:
    """Measure the harm of a draft. changed: tasks that a refit changed."""
    if look.judge is None:
        return job, solution
    judged = measure_tasks(solution.draft, job, look.judge, progress, changed)
    harms = {name: x.harm for name, x in judged.items()}
    return dataclasses.replace(job, harms=harms), dataclasses.replace(solution, harms=harms)


def _other_streams(job: Job, before: Draft, after: Draft) -> set[str]:
    """Return the tasks whose streams differ, which are those that a refit changed."""
    return {
        task.name
        for task in job.pieces.tasks
        if task.content is not None and before.streams[task.content] != after.streams[task.content]
    }


def refitted(
    job: Job, draft: Draft, adapters: Mapping[str, Adapter], refit: Refitter, budget: Budget
) -> tuple[Job, Draft]:
    """Return the draft with the records that ``refit`` gives, its errors measured again.

    If the budget is exceeded, tasks go back to what the encoder made: first those whose bytes grew
    most (a size), whose error grew most (a mean error) or whose error is largest (a largest error).
    Tasks of equal content share a stream; the first for which ``refit`` returns records decides.

    adapters: the originals by task name.

    Returns also the job, whose recipe and notes say how many tasks were refitted. Raises UsageError
    for records that do not fit.
    """
    decoded, aside = DecodedDraft(draft, job.pieces), Aside()
    streams: dict[int, _Stream] = {}
    for task in job.pieces.tasks:
        if task.content is not None and task.content not in streams:
            other = _stream(decoded, task, adapters[task.name], refit, budget, aside)
            if other:
                streams[task.content] = other
    order = sorted(streams.values(), key=lambda other: other.strain, reverse=True)
    owners = Counter(task.content for task in job.pieces.tasks)

    def tasks_of(others: Sequence[_Stream]) -> int:
        return sum(owners[other.content] for other in others)

    def attempt(dropped: int) -> tuple[Job, Draft]:
        kept = order[dropped:]
        recipe = {**job.recipe, "refit": tasks_of(kept)} if kept else job.recipe
        return dataclasses.replace(job, recipe=recipe), _with(draft, kept, aside)

    def keeps_budget(dropped: int) -> bool:
        made, changed = attempt(dropped)
        return made.value(budget, changed) <= budget.limit

    # With all dropped the draft is as it came, which keeps the budget.
    dropped = bisect.bisect_left(range(len(order)), True, key=keeps_budget)
    made, changed = attempt(dropped)
    kept, back = tasks_of(order[dropped:]), tasks_of(order[:dropped])
    notes = *job.pieces.notes, *_notes(len(job.pieces.tasks), kept, back, budget)
    pieces = dataclasses.replace(job.pieces, notes=notes)
    return dataclasses.replace(made, pieces=pieces), changed


@dataclass(frozen=True)
class _Stream:
    """Another stream of a content, where it lies, and (items,) squared errors with it.

    strain: how much of the blame is its, if a budget is not kept any more.
    """

    content: int
    place: Place
    errors: Array
    strain: float


def _stream(
    decoded: DecodedDraft,
    task: TaskEntry,
    adapter: Adapter,
    refit: Refitter,
    budget: Budget,
    aside: Aside,
) -> _Stream | None:
    draft, content = decoded.draft, task.content
    assert content is not None
    paths = {index: decoded.pieces.modules[index].path for index in task.modules}
    read = functools.cache(lambda: decoded.read(task))

    def modules() -> dict[str, CodedModule]:
        return {
            paths[i]: CodedModule(record, *decoded.bases[i], task.start)
            for i, record in read()[0].items()
            if record is not None
        }

    others = refit(task.name, modules)
    if not others:
        return None
    _check(task.name, modules, others)
    writer = ChunkWriter()
    errors = draft.errors[content].copy()
    with one_blas_thread():
        for index, record in read()[0].items():
            other = others.get(paths[index])
            if other is not None:
                original = Factors.of(*adapter.modules[paths[index]].factors())
                errors[index] = squared_error(thin(original.B, original.A), other)
            coded = other or record
            if coded is not None:
                coded.check(task.name, paths[index])
            write_record(writer, coded, states_mode(decoded.bases[index], task.start))
            writer.end_record(coded.numbers if coded else 0)
    for i, tensor in zip(task.tensors, read()[1], strict=True):
        entry = decoded.pieces.tensors[i]
        write_dense(writer, tensor)
        writer.end_record(tensor.numbers(entry.numbers, entry.base is not None))
    stream = writer.finish()
    changed = draft.errors.copy()
    changed[content] = errors
    before, after = (float(draft.counting.errors(x)[content]) for x in (draft.errors, changed))
    if isinstance(budget, Size):
        strain = float(len(stream) - sizes_of(draft.streams)[content])
    else:
        strain = after - before if isinstance(budget, MeanError) else after
    return _Stream(content, aside.put(stream), errors, strain)


def _check(task: str, modules: CodedModules, others: Mapping[str, PartsRecord]) -> None:
    """Raise UsageError for records that are not in the form of those that they replace."""
    before = modules()
    for path, other in others.items():
        wanted = _form_of(before[path].record) if path in before else "no module of that name"
        if _form_of(other) != wanted:
            raise UsageError(
                explain(
                    "cannot replace a record of a module",
                    adapter=task,
                    module=path,
                    got=_form_of(other),
                    expected=wanted,
                )
            )


def _form_of(record: PartsRecord) -> str:
    m, n = record.left.values.shape[0], record.right.values.shape[0]
    return f"{record.count} {record.mode.form} parts of {m} x {n}, mode {record.mode.code}"


def _with(draft: Draft, others: Sequence[_Stream], aside: Aside) -> Draft:
    """Return the draft with these streams, which stay where they are."""
    errors, numbers = draft.errors.copy(), dict[int, int]()
    for number, other in enumerate(others):
        errors[other.content], numbers[other.content] = other.errors, number
    made = Laid(aside, [other.place for other in others])
    chosen = [
        (made, [numbers[i]]) if i in numbers else (draft.streams, [i])
        for i in range(len(draft.streams))
    ]
    return dataclasses.replace(draft, streams=Chosen(*chosen), errors=errors)


def _notes(all_tasks: int, changed: int, back: int, budget: Budget) -> list[Note]:
    """Return notes on how many tasks were refitted and how many the budget left as they were."""
    text = f"coded parts were refitted in {changed} of {counted(all_tasks, 'task')}"
    notes = [Note("refit_kept", text)]
    if back:
        text = (
            f"the parts of {counted(back, 'task')} stayed as the encoder made them: with others "
            f"the {budget.name} would not be kept"
        )
        notes.append(Note("refit_undone", text))
    return notes
