"""The plan of a merge by harm: all of the merge but its file; every task by size by harm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from hydraopt.adapters import Adapter
from hydraopt.adapters.basefiles import BaseTensors, open_base
from hydraopt.bundle.harm import Harm
from hydraopt.bundle.spec import TaskEntry
from hydraopt.coding.forms import FORMS
from hydraopt.compress.measure import measure_named
from hydraopt.engines.engine import Engine
from hydraopt.errors import UsageError, explain
from hydraopt.merging.align import align
from hydraopt.merging.budget import Size, parse_harm, parse_size
from hydraopt.merging.finish import Finishers, finished
from hydraopt.merging.harm.judging import AnswerJudge
from hydraopt.merging.harm.solve import HarmSolution, solve_by_harm
from hydraopt.merging.harm.trials import Seen
from hydraopt.merging.merge import (
    DEFAULT_MEASURE,
    begun_job,
    lossless_job,
    recipe_of,
    weigh,
    with_curves,
)
from hydraopt.merging.notes import notes_of
from hydraopt.merging.outcome import StrPath, load
from hydraopt.merging.solving import Options
from hydraopt.merging.weights import Sensed
from hydraopt.progress import Progress

__all__ = ["WORDS", "Plan", "TaskPlanned", "plan", "plan_limit"]


class Words(NamedTuple):
    """Format of a harm in messages.

    factor: multiplier of the number.
    unit: text after the number.
    what: description of the quantity.
    """

    factor: float
    unit: str
    what: str


WORDS: Mapping[str, Words] = {
    "answers": Words(100.0, "%", "answers that change and a standard error, or by KL"),
    "lost": Words(100.0, "%", "answers lost (those that change, by how sure they were), or by KL"),
    "nats": Words(1.0, "nats", "KL an answer and a standard error"),
}
"""Format of a harm, by the kind that a plan counts."""


@dataclass(frozen=True)
class TaskPlanned:
    """Planned result for one task.

    trials: measurements, by falling size, with later tries among them; empty without prompts.
    size: bytes, including the task's share of the shared core.
    error: relative Frobenius error.
    harm: the harm that counts; None without prompts.
    stated: the harm that the bundle will state; None without prompts.
    """

    name: str
    trials: tuple[Seen, ...]
    size: float
    error: float
    harm: float | None
    stated: Harm | None


@dataclass(frozen=True)
class Plan:
    """Planned result of a merge.

    limit: the limit asked for, as "size" or "harm".
    counted: kind of harm. For a size it is "lost" answers, and a little for KL; for a limit it is
        "answers" that change or "nats" an answer, plus a standard error. For answers the
        prediction from KL counts if it is higher.
    size: bytes of one file; a folder may have others.
    fp16_bytes: fp16 bytes of the inputs.
    notes: notes of the merge.
    """

    limit: str
    value: float
    counted: str
    tasks: tuple[TaskPlanned, ...]
    size: int
    fp16_bytes: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the plan in its JSON form."""
        return asdict(self)


def plan(
    adapters: StrPath | Iterable[StrPath | Adapter],
    judge: AnswerJudge,
    *,
    size: str | int | None = None,
    harm: str | None = None,
    importance: Mapping[str, float] | None = None,
    fair: bool = False,
    measure: str = DEFAULT_MEASURE,
    sensitivity: Sensed = None,
    same_base: bool = False,
    alpha: float | None = None,
    base: StrPath | BaseTensors | None = None,
    workers: int | Engine | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Plan a merge with these options: the result for each task, and the trials that led to it.

    Arguments are those of :func:`hydraopt.merge`; give either size or harm. The plan does
    everything that merge does except a refit, and writes nothing but the judge's cache. A merge of
    the same adapters to one file, without a refit, repeats no measurement and writes the file that
    was planned. Raises the same errors as merge.
    """
    if (size is None) == (harm is None):
        raise UsageError(explain("a plan needs one limit", expected="a size or a harm"))
    weighing = measure_named(measure)
    loaded = load(adapters, same_base, alpha)
    pieces = align(loaded.adapters, loaded.base_model, lossless=False, base=open_base(base))
    if not pieces.contents:
        raise UsageError(explain("there is nothing to plan", got="no coded tensors"))
    aim = parse_harm(harm) if harm is not None else Size(parse_size(size or 0, pieces.fp16_bytes))
    if lossless_job(loaded, pieces, aim) is not None:
        do = "Merge with it: the bundle has every bit"
        got = "a size with room for every bit"
        raise UsageError(explain("there is nothing to plan", got=got, do=do))
    job = begun_job(pieces, aim)
    weighed = weigh(importance, sensitivity, pieces, aim, fair, judge)
    options = Options(weighing, tuple(FORMS), fair, workers, progress, *weighed)
    helpers = Finishers(judge)
    recipe = recipe_of(options, aim, False, helpers)
    job = replace(job, recipe=recipe)
    made = solve_by_harm(job, aim, options, judge)
    job, solution = with_curves(job, made)
    job, solution = finished(job, solution, aim, loaded.adapters, helpers, progress)
    manifest = job.manifest(solution.draft)
    tasks = tuple(_planned(task, made) for task in manifest.tasks)
    whole, fp16 = job.size(solution.draft, manifest), pieces.fp16_bytes
    if isinstance(aim, Size) and whole > aim.limit:
        raise job.too_small(aim, whole)
    notes = *loaded.notes, *job.pieces.notes, *notes_of(manifest, aim, whole, fp16)
    counted = made.trials.counted.what
    return Plan(aim.name, float(aim.limit), counted, tasks, whole, fp16, notes)


def plan_limit(report: Mapping[str, Any]) -> str:
    """Return the limit of a plan in words. report: a plan in its JSON form.

    For example "5,000 bytes" or "1 % of each task's answers may change".
    """
    value = report["value"]
    if report["limit"] == "size":
        return f"{value:,.0f} bytes"
    if report["counted"] == "nats":
        return f"{value:g} nats of KL an answer"
    return f"{100 * value:g} % of each task's answers may change"


def _planned(task: TaskEntry, made: HarmSolution) -> TaskPlanned:
    """Return the plan of one task. task: its entry in the future manifest."""
    if task.content is None:
        return TaskPlanned(task.name, (), 0.0, task.error, None, None)
    seen = made.trials.seen.get(task.name, {})
    trials = tuple(sorted(seen.values(), key=lambda x: -x.size))
    size = made.trials.points[task.content][made.look].size
    harm = seen[made.look].harm if made.look in seen else None
    return TaskPlanned(task.name, trials, size, task.error, harm, task.harm)
