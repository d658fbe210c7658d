"""Finish a solved draft: refit its coded parts and measure its harm."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence

from hydraopt.adapters import Adapter
from hydraopt.merging.budget import Budget
from hydraopt.merging.decoded import DecodedDraft
from hydraopt.merging.draft import Draft
from hydraopt.merging.look import HarmJudge, Look, MeasuredHarm
from hydraopt.merging.outcome import Job
from hydraopt.merging.recipe import MergeRecipe
from hydraopt.merging.refit import refitted
from hydraopt.merging.rewrite import Rewritten
from hydraopt.merging.search import Solution
from hydraopt.notes import Note
from hydraopt.progress import Progress, silent
from hydraopt.values import counted

__all__ = ["finished", "measure_tasks"]


def finished(
    job: Job,
    solution: Solution[Draft],
    budget: Budget,
    adapters: Sequence[Adapter],
    look: Look,
    progress: Progress | None = None,
) -> tuple[Job, Solution[Draft]]:
    """Refit the draft, record that in the recipe and notes, and measure its harm.

    adapters: the originals. Raises whatever the look raises.
    """
    originals, before = {adapter.name: adapter for adapter in adapters}, solution.draft
    if look.refit:
        refit = functools.partial(refitted, before, job.pieces, originals, look.refit, budget)
        job, solution = _refitted(job, solution, budget, refit)
    if look.judge is None:
        return job, solution
    changed = _other_streams(job, before, solution.draft)
    judged = measure_tasks(solution.draft, job, look.judge, progress or silent, changed)
    harms = {name: x.harm for name, x in judged.items()}
    return dataclasses.replace(job, harms=harms), solution


def measure_tasks(
    draft: Draft,
    job: Job,
    judge: HarmJudge,
    progress: Progress,
    refitted: Collection[str] = (),
    stage: str = "measuring harm",
) -> dict[str, MeasuredHarm]:
    """Measure the harm of a draft to the coded tasks that have prompts.

    refitted: tasks to measure only on the prompts that no refit learned from.
    """
    decoded, judged = DecodedDraft(draft, job.pieces), {}
    names = judge.tasks()
    tasks = [x for x in job.pieces.tasks if x.name in names and x.content is not None]
    for done, task in enumerate(tasks, 1):
        factors = functools.partial(decoded.factors, task)
        judged[task.name] = judge.measure(task.name, factors, apart=task.name in refitted)
        progress(stage, done, len(tasks))
    return judged


def _refitted(
    job: Job,
    solution: Solution[Draft],
    budget: Budget,
    refit: Callable[[Callable[[Draft, int], float]], Rewritten],
) -> tuple[Job, Solution[Draft]]:
    """Replace the records of as many tasks as keep the budget by refitted ones.

    refit: takes a function that returns the budget's value for a draft and its number of refitted
    tasks.
    """
    made = refit(lambda draft, tasks: _with(job, tasks).value(budget, draft))
    job = _noted(_with(job, made.tasks), made, budget)
    return job, dataclasses.replace(solution, draft=made.draft)


def _other_streams(job: Job, before: Draft, after: Draft) -> set[str]:
    """Return the tasks whose streams differ, which are those that a refit changed."""
    return {
        task.name
        for task in job.pieces.tasks
        if task.content is not None and before.streams[task.content] != after.streams[task.content]
    }


def _with(job: Job, tasks: int) -> Job:
    """Return the job with the number of refitted tasks in its recipe."""
    recipe = job.recipe
    assert isinstance(recipe, MergeRecipe)
    return dataclasses.replace(job, recipe=dataclasses.replace(recipe, refit=tasks))


def _noted(job: Job, made: Rewritten, budget: Budget) -> Job:
    """Add notes on how many tasks were refitted and how many the budget left as they were."""
    tasks = counted(len(job.pieces.tasks), "task")
    notes = [Note("refit_kept", f"coded parts were refitted in {made.tasks} of {tasks}")]
    if made.back:
        text = (
            f"the parts of {counted(made.back, 'task')} stayed as the encoder made them: with "
            f"others the {budget.name} would not be kept"
        )
        notes.append(Note("refit_undone", text))
    pieces = dataclasses.replace(job.pieces, notes=(*job.pieces.notes, *notes))
    return dataclasses.replace(job, pieces=pieces)
