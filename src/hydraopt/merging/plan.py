"""Plan of a merge: all of it but a refit and its file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

from hydraopt.adapters import Adapter
from hydraopt.bundle.harm import Harm
from hydraopt.bundle.spec import TaskEntry
from hydraopt.errors import UsageError, explain
from hydraopt.linalg.shapes import Array
from hydraopt.merging.budget import HarmLimit
from hydraopt.merging.draft import Solution, TaskTrial
from hydraopt.merging.limit import bytes_with_core
from hydraopt.merging.merge import notes_on, prepare, solve
from hydraopt.merging.options import MergeOptions
from hydraopt.merging.outcome import StrPath
from hydraopt.notes import Note

__all__ = ["HARM_UNITS", "Plan", "PlannedTask", "plan", "plan_limit"]


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
