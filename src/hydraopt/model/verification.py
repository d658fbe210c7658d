"""Measure the harm of a bundle's tasks again, and compare it with the stated harm.

Both are shares of few answers, perhaps to different prompts. So a task counts as worse than stated
only if chance does not explain the difference: see :func:`most_likely`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from hydraopt.adapters import Adapter
from hydraopt.bundle import Harm, HarmReport, TaskHarm, answer_tokens_in, open_bundle
from hydraopt.errors import BundleFormatError, ExportError, NumericalError
from hydraopt.merging import DEFAULT_HARM, HarmSettings
from hydraopt.model.judge import AnswerJudge
from hydraopt.progress import Progress, silent

DEVIATIONS: Final = 3.0
"""Number of standard deviations that count as chance. Of sets of forty tasks that are as stated,
one in twenty has a task beyond them."""


def verify_harm(
    path: str | os.PathLike[str],
    adapters: Sequence[Adapter],
    base: str,
    prompts: Mapping[str, Sequence[str]],
    progress: Progress | None = None,
    settings: HarmSettings = DEFAULT_HARM,
) -> HarmReport:
    """Measure the harm of a bundle's tasks on their originals' own greedy answers.

    A task that is worse than stated or cannot be decoded is a problem; a task that is better is
    none. Earlier measurements of the same factors on the same answers are cached on disk.

    adapters: the originals, matched by name.
    base: a folder or name that transformers loads.
    prompts: by task, as the model gets them; tasks without prompts are left out.
    settings: numbers of prompts. Of a task that the recipe counts as refitted, only the first
        ``prompts_if_refit`` are measured, because the refit learned from the others if they are
        the merge's. The answer tokens are the recipe's.

    Raises BundleFormatError for a file that is no bundle, UsageError as
    :class:`hydraopt.model.judge.AnswerJudge`, and AlignmentError for a base without the modules.
    """
    progress = progress or silent
    bundle = open_bundle(path)
    # Where coded parts were trained, the prompts beyond the first were learned from; of tasks that
    # were added to that core nothing was.
    refit = bool(bundle.recipe.get("refit"))
    trained = {x.name for x in bundle.manifest.tasks if refit and x.added is None}
    unlearned = {
        name: list(dict.fromkeys(texts))[: settings.prompts_if_refit if name in trained else None]
        for name, texts in prompts.items()
    }
    tokens = answer_tokens_in(bundle.recipe)
    settings = replace(settings, answer_tokens=tokens)
    judge = AnswerJudge(base, adapters, unlearned, progress, settings=settings)
    tasks, problems = [], []
    judged = {x.name for x in bundle.manifest.tasks} & judge.tasks()
    for task in bundle.one_by_one():
        if task.name not in judged:
            continue
        try:
            measured = judge.measure(task.name, task.factors).harm
        except (BundleFormatError, ExportError, NumericalError) as error:
            problems.append(f"task {task.name!r}: {error}")
            continue
        stated = task.entry.harm
        most = None if stated is None else most_likely(stated, measured.answers)
        tasks.append(TaskHarm(task.name, stated, measured, most))
        progress("measuring harm", len(tasks) + len(problems), len(judged))
    tasks.sort(key=lambda x: x.name)
    problems += [text for task in tasks if (text := _worse(task))]
    # If these are the prompts of the merge, harm that was stated of fewer answers left those out
    # that the refit learned from.
    learned = (
        x.name for x in tasks
        if x.name in trained and x.stated and x.stated.answers < x.measured.answers
    )  # fmt: skip
    cut = judge.cut(x.name for x in tasks)
    return HarmReport(tuple(tasks), tuple(problems), tuple(learned), cut, tokens)


def most_likely(stated: Harm, answers: int) -> float:
    """Return the largest share of changed answers that agrees with a stated one, 0 to 1.

    It is the upper end of Wilson's interval (1927) at three standard deviations. Both shares vary,
    one over n and one over m answers, so that their difference varies like a share of
    1 / (1/n + 1/m) answers. An answer's chance to change varies less than whether it does, so the
    bound is generous.

    answers: number of answers measured now, at least 1.
    """
    n = 1 / (1 / stated.answers + 1 / answers)
    p, z = stated.likely, DEVIATIONS
    middle = p + z**2 / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    return min((middle + spread) / (1 + z**2 / n), 1.0)


def _worse(task: TaskHarm) -> str | None:
    """Return an error message about a task's stated harm; None if there is no error."""
    if task.ok or task.stated is None or task.most is None:
        return None
    return (
        f"task {task.name!r}: {100 * task.measured.likely:.2f} % of {task.measured.answers} "
        f"answers are likely to change, the manifest says {100 * task.stated.likely:.2f} % of "
        f"{task.stated.answers}, which explains {100 * task.most:.2f} % at most"
    )
