"""Finish a solved draft with the base model at hand: refit its coded parts and measure harm.

A refitter and a judge have the model; this module needs none.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from hydraopt.adapters import Adapter
from hydraopt.bundle.harm import ANSWER_TOKENS
from hydraopt.errors import UsageError, explain
from hydraopt.merging.budget import Budget, HarmLimit
from hydraopt.merging.draft import Draft
from hydraopt.merging.harm.judging import AnswerJudge
from hydraopt.merging.harm.trials import measure_tasks
from hydraopt.merging.outcome import Job, Measured
from hydraopt.merging.recipe import MergeRecipe
from hydraopt.merging.refit import Refitter, refitted
from hydraopt.merging.rewrite import Rewritten
from hydraopt.merging.search import Solution
from hydraopt.progress import Progress, silent
from hydraopt.values import counted

__all__ = ["Finishers", "finished"]

_GIVE_PROMPTS: Final = (
    "Give a base model and prompts: --base BASE --prompts DIR, or an Onlooker's judge"
)


@dataclass(frozen=True)
class Finishers:
    """Optional collaborators of a merge: a judge measures harm, a refitter trains coded parts."""

    judge: AnswerJudge | None = None
    refitter: Refitter | None = None

    @property
    def judged(self) -> int:
        """Tasks whose harm is measured."""
        return len(self.judge.tasks()) if self.judge else 0

    @property
    def answer_tokens(self) -> int:
        """Tokens of an answer that are judged, at most."""
        return self.judge.answer_tokens if self.judge else ANSWER_TOKENS

    def check(self, limited: bool) -> None:
        """Raise UsageError for a limit on harm without a judge, or together with a refitter."""
        if limited and self.judge is None:
            raise UsageError(explain("a limit on harm needs a judge", do=_GIVE_PROMPTS))
        if limited and self.refitter:
            raise UsageError(
                explain(
                    "a refit cannot be combined with a limit on harm",
                    expected="a size or an error with it",
                )
            )


def finished(
    job: Job,
    solution: Solution[Draft],
    budget: Budget | HarmLimit,
    adapters: Sequence[Adapter],
    helpers: Finishers,
    progress: Progress | None = None,
) -> tuple[Job, Solution[Draft]]:
    """Refit the draft, record that in the recipe and notes, and measure its harm.

    adapters: the originals. Raises whatever the helpers raise.
    """
    originals, before = {adapter.name: adapter for adapter in adapters}, solution.draft
    if helpers.refitter and not isinstance(budget, HarmLimit):  # helpers.check refuses both
        refit = functools.partial(refitted, before, job.pieces, originals, helpers.refitter, budget)
        with_harm = helpers.judge.tasks() if helpers.judge else ()
        job, solution = _refitted(job, solution, budget, refit, with_harm)
    if helpers.judge is None:
        return job, solution
    everything, told = range(job.pieces.contents), progress or silent
    changed = _other_streams(job, before, solution.draft)
    judged = measure_tasks(solution.draft, job, helpers.judge, everything, told, changed)
    nothing = Measured(None)
    measured = {
        name: dataclasses.replace(job.measured.get(name, nothing), harm=x.harm)
        for name, x in judged.items()
    }
    return dataclasses.replace(job, measured=measured), solution


def _refitted(
    job: Job,
    solution: Solution[Draft],
    budget: Budget,
    refit: Callable[[Callable[[Draft, int], float]], Rewritten],
    judged: Collection[str],
) -> tuple[Job, Solution[Draft]]:
    """Replace the records of as many tasks as keep the budget by refitted ones.

    refit: takes a function that returns the budget's value for a draft and its number of refitted
    tasks.
    judged: tasks whose harm is measured afterwards, which takes bytes of the manifest.
    """
    nothing, stand_ins = Measured(None), Measured.unlike(sorted(judged), 0)
    counted = {
        name: dataclasses.replace(job.measured.get(name, nothing), harm=x.harm)
        for name, x in stand_ins.items()
    }
    as_written = dataclasses.replace(job, measured={**job.measured, **counted})
    made = refit(lambda draft, tasks: _with(as_written, tasks).value(budget, draft))
    job = _noted(_with(job, made.tasks), made, budget)
    return job, dataclasses.replace(solution, draft=made.draft)


def _other_streams(job: Job, before: Draft, after: Draft) -> set[str]:
    """The tasks whose streams differ: those that something was fitted to."""
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
    notes = [f"coded parts were refitted in {made.tasks} of {tasks}"]
    if made.back:
        notes.append(
            f"the parts of {counted(made.back, 'task')} stayed as the encoder made them: with "
            f"others the {budget.name} would not be kept"
        )
    pieces = dataclasses.replace(job.pieces, notes=(*job.pieces.notes, *notes))
    return dataclasses.replace(job, pieces=pieces)
