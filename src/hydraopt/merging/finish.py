"""Finish: what is done to a solved draft with the base model at hand: refit, rescale, measure.

Each is asked of somebody else, who has the model; nothing here knows of one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal

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
from hydraopt.merging.rescale import Rescaler, rescaled
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
    """Who is asked, each None if nobody: to measure harm, to train parts, to fit their lengths."""

    judge: AnswerJudge | None = None
    refitter: Refitter | None = None
    rescaler: Rescaler | None = None

    @property
    def judged(self) -> int:
        """Tasks whose harm is measured."""
        return len(self.judge.tasks()) if self.judge else 0

    @property
    def answer_tokens(self) -> int:
        """Tokens of an answer that are judged, at most."""
        return self.judge.answer_tokens if self.judge else ANSWER_TOKENS

    def check(self, limited: bool) -> None:
        """Raise UsageError for a limit on harm that nobody measures, or that training would follow,
        and for two who train."""
        if limited and self.judge is None:
            raise UsageError(explain("a limit on harm needs a judge", do=_GIVE_PROMPTS))
        if limited and (self.refitter or self.rescaler):
            raise UsageError(
                explain(
                    "what keeps a limit on harm is not trained any more",
                    got="a refitter" if self.refitter else "a rescaler",
                    expected="a size or an error with it",
                )
            )
        if self.rescaler and self.refitter:
            raise UsageError(explain("a refit fits lengths too", do="Leave the rescaler out"))


def finished(
    job: Job,
    solution: Solution[Draft],
    budget: Budget | HarmLimit,
    adapters: Sequence[Adapter],
    helpers: Finishers,
    progress: Progress | None = None,
) -> tuple[Job, Solution[Draft]]:
    """The draft refitted or rescaled, which the recipe and notes say, and its harm measured.

    adapters: the originals. Raises what they raise who are asked.
    """
    originals, before = {adapter.name: adapter for adapter in adapters}, solution.draft
    if not isinstance(budget, HarmLimit):  # helpers.check refuses training after one
        known = job.pieces, originals
        train = functools.partial(_trained, judged=helpers.judge.tasks() if helpers.judge else ())
        if helpers.refitter:
            refit = functools.partial(refitted, before, *known, helpers.refitter, budget)
            job, solution = train(job, solution, budget, "refit", refit)
        if helpers.rescaler:
            rescale = functools.partial(rescaled, before, *known, helpers.rescaler, budget)
            job, solution = train(job, solution, budget, "rescaled", rescale)
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


def _trained(
    job: Job,
    solution: Solution[Draft],
    budget: Budget,
    what: Literal["refit", "rescaled"],
    train: Callable[[Callable[[Draft, int], float]], Rewritten],
    judged: Collection[str],
) -> tuple[Job, Solution[Draft]]:
    """With other records in some tasks, as many of them as keep the budget.

    train: takes what says the value of the budget, of a draft in which so many tasks are changed.
    judged: tasks whose harm is measured afterwards, which the manifest will say.
    """
    nothing, stand_ins = Measured(None), Measured.unlike(sorted(judged), 0)
    counted = {
        name: dataclasses.replace(job.measured.get(name, nothing), harm=x.harm)
        for name, x in stand_ins.items()
    }
    as_written = dataclasses.replace(job, measured={**job.measured, **counted})
    made = train(lambda draft, tasks: _with(as_written, what, tasks).value(budget, draft))
    job = _noted(_with(job, what, made.tasks), made, what, budget)
    return job, dataclasses.replace(solution, draft=made.draft)


def _other_streams(job: Job, before: Draft, after: Draft) -> set[str]:
    """The tasks whose streams differ: those that something was fitted to."""
    return {
        task.name
        for task in job.pieces.tasks
        if task.content is not None and before.streams[task.content] != after.streams[task.content]
    }


def _with(job: Job, what: Literal["refit", "rescaled"], tasks: int) -> Job:
    """The job whose recipe counts tasks."""
    recipe = job.recipe
    assert isinstance(recipe, MergeRecipe)
    if what == "refit":
        return dataclasses.replace(job, recipe=dataclasses.replace(recipe, refit=tasks))
    return dataclasses.replace(job, recipe=dataclasses.replace(recipe, rescaled=tasks))


def _noted(job: Job, made: Rewritten, what: Literal["refit", "rescaled"], budget: Budget) -> Job:
    """With notes: in how many tasks, and if the budget stood in the way."""
    words = {"refit": "refitted", "rescaled": "rescaled"}
    tasks = counted(len(job.pieces.tasks), "task")
    notes = [f"coded parts were {words[what]} in {made.tasks} of {tasks}"]
    if made.back:
        notes.append(
            f"the parts of {counted(made.back, 'task')} stayed as the encoder made them: with "
            f"others the {budget.name} would not be kept"
        )
    pieces = dataclasses.replace(job.pieces, notes=(*job.pieces.notes, *notes))
    return dataclasses.replace(job, pieces=pieces)
