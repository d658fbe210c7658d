"""The plan of a merge by harm, without the merge: every task by size by harm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from hydraopt.adapters import Adapter
from hydraopt.adapters.basefiles import BaseTensors, open_base
from hydraopt.coding.forms import FORMS
from hydraopt.compress.measure import measure_named
from hydraopt.engines.engine import Engine
from hydraopt.errors import UsageError, explain
from hydraopt.merging.align import align
from hydraopt.merging.budget import Size, parse_harm, parse_size
from hydraopt.merging.finish import Finishers
from hydraopt.merging.harm.judging import HarmJudge
from hydraopt.merging.harm.solve import HarmPlan, check_choices, plan_by_harm
from hydraopt.merging.harm.trials import Seen
from hydraopt.merging.merge import DEFAULT_MEASURE, lossless_job, recipe_of
from hydraopt.merging.outcome import Job, StrPath, load
from hydraopt.merging.solving import Options, passes_of
from hydraopt.merging.weights import Sensed, importances, sensed
from hydraopt.progress import Progress

__all__ = ["WORDS", "Plan", "TaskPlanned", "plan"]


class Words(NamedTuple):
    """How people are told a harm. factor: of the number; unit: after it; what: it is."""

    factor: float
    unit: str
    what: str


WORDS: Mapping[str, Words] = {
    "answers": Words(100.0, "%", "answers that change and a standard error, or by KL"),
    "lost": Words(100.0, "%", "answers lost (those that change, by how sure they were)"),
    "nats": Words(1.0, "nats", "KL an answer and a standard error"),
}
"""By what a plan counts."""


@dataclass(frozen=True)
class TaskPlanned:
    """One task. trials: what was measured, by falling size; none without prompts. size, harm: what
    its curve expects where the plan puts it: bytes, and the harm that is counted; harm is None for
    a task without prompts."""

    name: str
    trials: tuple[Seen, ...]
    size: float
    harm: float | None


@dataclass(frozen=True)
class Plan:
    """limit: what was asked for, as "size" or "harm". counted: what harm is: "lost" answers of a
    size; "answers" that change or "nats" an answer of a limit, with a standard error more; of
    answers what KL foretells if that is more. size: bytes that are expected of all streams; header,
    manifest and carried tensors come to it. fp16_bytes: of the inputs."""

    limit: str
    value: float
    counted: str
    tasks: tuple[TaskPlanned, ...]
    size: float
    fp16_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def plan(
    adapters: StrPath | Iterable[StrPath | Adapter],
    judge: HarmJudge,
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
    """Trials of all tasks, and where a merge with these options would put each of them.

    Arguments as :func:`hydraopt.merge` has them; size or harm, exactly one. Nothing is written but
    the judge's own memory, so the merge that follows measures its trials no more. Raises what
    merge raises.
    """
    if (size is None) == (harm is None):
        raise UsageError(explain("a plan needs one limit", expected="a size or a harm"))
    loaded = load(adapters, same_base, alpha)
    pieces = align(loaded.adapters, loaded.base_model, lossless=False, base=open_base(base))
    if not pieces.contents:
        raise UsageError(explain("there is nothing to share out", got="no coded tensors"))
    aim = parse_harm(harm) if harm is not None else Size(parse_size(size or 0, pieces.fp16_bytes))
    check_choices(aim, fair, importance or {})
    importances(pieces, importance or {})
    if lossless_job(loaded, pieces, aim) is not None:
        do = "Merge with it: the bundle has every bit"
        got = "a size with room for every bit"
        raise UsageError(explain("there is nothing to share out", got=got, do=do))
    weighed = importance or {}, sensed(sensitivity)
    options = Options(measure_named(measure), tuple(FORMS), fair, workers, progress, *weighed)
    recipe = recipe_of(options, aim, False, Finishers(judge))
    job = Job.of(pieces, recipe)
    with passes_of(job, options) as passes:
        made = plan_by_harm(job, aim, options, judge, passes)
    tasks = tuple(_planned(made))
    # Tasks of equal content share a stream.
    contents = {task.name: task.content for task in pieces.tasks}
    whole = sum({contents[task.name]: task.size for task in tasks}.values())
    counted = made.trials.counted.what
    return Plan(aim.name, float(aim.limit), counted, tasks, whole, pieces.fp16_bytes)


def _planned(made: HarmPlan) -> Iterable[TaskPlanned]:
    for task in made.trials.job.pieces.tasks:
        if task.content is None:
            yield TaskPlanned(task.name, (), 0.0, None)
            continue
        price = float(made.prices[task.content])
        seen = sorted(made.trials.seen.get(task.name, ()), key=lambda x: -x.size)
        curve = made.curves.get(task.content)
        if curve is None:
            yield TaskPlanned(task.name, (), made.trials.size_near(task.content, price), None)
            continue
        log = np.array([math.log(price)])
        size, harm = float(curve.sizes(log)[0]), float(curve.harms(log)[0])
        yield TaskPlanned(task.name, tuple(seen), size, harm)
