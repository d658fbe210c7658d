"""Options of a merge, validated once, before anything slow is loaded."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from hydraopt.adapters import Adapter
from hydraopt.adapters.basefiles import BaseTensors
from hydraopt.adapters.start import traced
from hydraopt.coding.forms import FORMS
from hydraopt.compress.measure import Measure, measure_named
from hydraopt.engines.engine import Engine
from hydraopt.errors import UsageError, explain
from hydraopt.merging.align import MergeSet
from hydraopt.merging.budget import Budget, HarmLimit, Limit, WorstError
from hydraopt.merging.look import Look
from hydraopt.merging.outcome import StrPath
from hydraopt.merging.recipe import Recipe, merge_recipe
from hydraopt.progress import Progress, silent
from hydraopt.values import listed

__all__ = [
    "DEFAULT_MAX_ERROR",
    "DEFAULT_MEASURE",
    "MergeOptions",
    "check_harm_limit",
    "check_prompted",
    "coded_names",
]

DEFAULT_MAX_ERROR: Final = 0.03
"""Default limit on the error of the worst task; docs/evidence/index.md says why."""
DEFAULT_MEASURE: Final = "bias-aware"


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Options of a merge.

    limit: what the merge keeps; see :class:`hydraopt.merging.budget.Limit`. Default: no task's
        error is above DEFAULT_MAX_ERROR. A size holds every bit where it has room for that.
    importance: weight of each task's error. Default 1.
    fair: whether to bring all tasks as near to one error as possible.
    measure: measure of errors, or the name of one; see hydraopt.compress.measure.
    look: base model, which measures harm and sensitivities and trains coded parts.
    forms: permitted forms. Default all.
    exact: patterns, with * and ?, of keys of tensors to keep bit by bit.
    same_base: whether base models that are named differently are the same one.
    alpha: lora_alpha of files that do not state it.
    base: the base model's folder or tensors. Tensors that replace one of its own are coded as the
        difference, and readers need it too.
    trace: whether to search for the seeds that the adapters were initialised from.
    workers: maximum number of processes, or an Engine.
    progress: called with (stage, done, total).

    Raises UsageError for options that are invalid or cannot be combined.
    """

    limit: Limit = field(default_factory=Limit)
    importance: Mapping[str, float] = field(default_factory=dict)
    fair: bool = False
    measure: str | Measure = DEFAULT_MEASURE
    look: Look = field(default_factory=Look)
    forms: Sequence[str] = tuple(FORMS)
    exact: Sequence[str] = ()
    same_base: bool = False
    alpha: float | None = None
    base: StrPath | BaseTensors | None = None
    trace: bool = True
    workers: int | Engine | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if isinstance(self.exact, str):  # its characters would be the patterns, and * is one
            raise UsageError(explain("exact is a list of patterns", got=repr(self.exact)))
        if isinstance(self.measure, str):
            measure_named(self.measure)
        if unknown := sorted(set(self.forms) - set(FORMS)):
            got, expected = ", ".join(unknown), ", ".join(FORMS)
            raise UsageError(explain("unknown form", got=got, expected=expected))
        if self.limit.harm is not None:
            self.look.check_harm()
        check_harm_limit(self.limit.budget(1 << 60), self.fair, self.importance)
        if self.limit.lossless:
            self._check_lossless()

    def _check_lossless(self) -> None:
        """Raise UsageError for options that have no effect on a lossless merge."""
        choices = {
            "importance": self.importance,
            "fair": self.fair,
            "measure": self.measure != DEFAULT_MEASURE,
            "sensitivity": self.look.sensitivity,
            "judge": self.look.judge,
            "refit": self.look.refit,
            "forms": tuple(self.forms) != tuple(FORMS),
            "exact": self.exact,
        }
        if idle := [name for name, value in choices.items() if value]:
            raise UsageError(
                explain(
                    "lossless cannot be combined with these options",
                    got=", ".join(idle),
                    do="Leave these out, or give a size or an error instead",
                )
            )

    @property
    def weighing(self) -> Measure:
        """Measure of errors."""
        return measure_named(self.measure) if isinstance(self.measure, str) else self.measure

    def budget(self, fp16_bytes: int) -> Budget | HarmLimit:
        """Return the budget for adapters of this size.

        The budget of a lossless merge binds nothing.
        """
        return self.limit.budget(fp16_bytes) or WorstError(DEFAULT_MAX_ERROR)

    def traced(self, adapters: list[Adapter]) -> list[Adapter]:
        """Return the adapters with their starts, unless a merge has no use for them."""
        if not self.trace or self.limit.lossless:
            return adapters
        return traced(adapters, self.progress or silent)

    def recipe(self, budget: Budget | HarmLimit, sensed: int) -> Recipe:
        """Return the recipe that records these options.

        sensed: number of tasks whose sensitivity was measured.
        """
        return merge_recipe(
            self.weighing.name,
            "lossless" if self.limit.lossless else budget.name,
            budget.limit,
            self.forms,
            self.fair,
            sensitivity=sensed,
            judged=len(self.look.tasks),
            unit=budget.unit if isinstance(budget, HarmLimit) else "",
            answer_tokens=self.look.answer_tokens,
        )


def check_harm_limit(
    budget: Budget | HarmLimit | None, fair: bool, importance: Mapping[str, float]
) -> None:
    """Raise UsageError for options that cannot be combined with a limit on harm."""
    if isinstance(budget, HarmLimit) and (fair or importance):
        raise UsageError(
            explain(
                "a limit on harm cannot be combined with weights or fair",
                do="Leave fair out" if fair else "Leave the weights out",
            )
        )


def coded_names(pieces: MergeSet) -> Iterator[str]:
    """Yield the names of tasks with coded data: other tasks keep any limit."""
    return (task.name for task in pieces.tasks if task.content is not None)


def check_prompted(names: Iterable[str], known: Collection[str]) -> None:
    """Raise UsageError for tasks without prompts. known: tasks that have prompts."""
    missing = [name for name in names if name not in known]
    if missing:
        raise UsageError(
            explain(
                "a limit on harm needs prompts for every task",
                got=f"none of {listed(missing)}",
                do="Add a file of prompts for each, give --size or --error instead, or merge those "
                "that can have none apart",
            )
        )
