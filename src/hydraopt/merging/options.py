"""Options of a merge, validated once, and the collaborator that runs the base model.

``hydraopt.model`` implements it; a merge knows only what is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from hydraopt.adapters import Adapter, BaseTensors, traced
from hydraopt.bundle import ANSWER_TOKENS, MOST_ANSWER_TOKENS, Harm
from hydraopt.codec import FORMS, CodedModule, Factors, Measure, PartsRecord, measure_named
from hydraopt.errors import UsageError, explain
from hydraopt.files import StrPath
from hydraopt.merging.alignment import MergeSet
from hydraopt.merging.limits import Budget, HarmLimit, Limit, Recipe, WorstError, merge_recipe
from hydraopt.merging.weights import Sensed
from hydraopt.merging.workers import Engine
from hydraopt.notes import listed
from hydraopt.progress import Progress, silent

CodedModules = Callable[[], Mapping[str, CodedModule]]
"""Decodes a task's modules, by path; those of which nothing is kept are not there."""
Refitter = Callable[[str, CodedModules], Mapping[str, PartsRecord]]
"""Called with a task's name and with a function that decodes its modules by path. Gives other
records, of as many parts, by module path; modules that are left out stay as they are, and an empty
answer leaves the task alone."""

_GIVE_PROMPTS: Final = (
    "Give a base model and prompts: --base BASE --prompts DIR, or a Look with a judge"
)


@dataclass(frozen=True)
class HarmSettings:
    """Settings of measurements of harm and of refits; docs/log.md says why.

    prompts: maximum number of prompts per task used to measure harm.
    prompts_if_refit: the same if the other prompts train a refit.
    refit_prompts: maximum number of distinct prompts per task for a refit, including the prompts
        that judge it.
    synthetic_prompts: number of prompts per task of a refit up to which the base model writes more,
        if there are fewer than ``prompts_if_refit``; 0 for none.
    least_examples: minimum number of prompts per task for that.
    held_out: one answer in this number is held out of a refit, to judge the result.
    most_held_out: number of held-out answers up to which a refit's other prompts judge as well.
    least_held_out: minimum number of held-out answers, because one answer may improve by chance.
    answer_tokens: maximum number of tokens of an answer to judge and to learn from.
    sensitivity_texts: number of texts for measuring sensitivities; more texts change little.
    sensitivity_tokens: maximum number of tokens of an answer used to measure sensitivities.
    steps: steps of Adam of a refit.
    judge_after: steps after which the result is coded and judged, the last of them after all.
    learning_rate: first rate, relative to the root mean square of a side; falls linearly to zero.
    coded_learning_rate: first rate from the coded parts (rounding undoes small steps); None for no
        such start.
    batch_size: answers per step.
    recode_every: steps after which rounding is measured again.
    stages: groups of modules in layer order; the first are frozen some time before the end.

    Raises UsageError for a number of tokens that a recipe cannot state, and for stops that do not
    rise to the number of steps.
    """

    prompts: int = 256
    prompts_if_refit: int = 64
    refit_prompts: int = 1024
    synthetic_prompts: int = 300
    least_examples: int = 5
    held_out: int = 4
    most_held_out: int = 96
    least_held_out: int = 4
    answer_tokens: int = ANSWER_TOKENS
    sensitivity_texts: int = 8
    sensitivity_tokens: int = 48
    steps: int = 160
    judge_after: tuple[int, ...] = (80, 120, 160)
    learning_rate: float = 0.01
    coded_learning_rate: float | None = 0.02
    batch_size: int = 8
    recode_every: int = 4
    stages: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.answer_tokens <= MOST_ANSWER_TOKENS:
            raise UsageError(
                explain(
                    "cannot judge so many tokens of an answer",
                    got=f"{self.answer_tokens:,}",
                    expected=f"1 to {MOST_ANSWER_TOKENS:,}",
                )
            )
        steps = [*self.judge_after]
        if steps != sorted({*steps, self.steps}) or steps[0] < 1:
            raise UsageError(
                explain(
                    "a refit cannot be judged at these steps",
                    got=self.judge_after,
                    expected=f"rising numbers from 1, the last of them {self.steps}",
                )
            )

    def counts(self, refits: bool) -> tuple[int, int]:
        """Return the maximum number of prompts of a task that measure harm, and of all prompts."""
        if not refits:
            return self.prompts, self.prompts
        return self.prompts_if_refit, max(self.prompts_if_refit, self.refit_prompts)

    def missing(self, prompts: int) -> int:
        """Return the number of prompts that the base model is to write for a refit."""
        few = self.least_examples <= prompts < self.prompts_if_refit
        return max(self.synthetic_prompts - prompts, 0) if few else 0


DEFAULT_HARM: Final = HarmSettings()


@dataclass(frozen=True)
class MeasuredHarm:
    """Measured harm, with the standard error of its KL for the choice of prompts."""

    harm: Harm
    kl_error: float


class HarmJudge(ABC):
    """Base class of judges: a judge measures harm on answers.

    answer_tokens: maximum number of tokens of an answer that are judged.
    """

    answer_tokens: int = ANSWER_TOKENS

    @abstractmethod
    def tasks(self) -> frozenset[str]:
        """Return the names of the tasks whose harm it can measure."""

    @abstractmethod
    def measure(
        self,
        task: str,
        coded: Callable[[], Mapping[str, Factors]],
        apart: bool = False,
    ) -> MeasuredHarm:
        """Measure the harm of a task's decoded factors.

        coded: returns, by module path, B (m, k) with the scale inside and A (k, n). Modules that
            are left out are those of the base model alone.
        apart: whether to use only the prompts that a refit does not learn from.
        """


@dataclass(frozen=True)
class Look:
    """Base model of a merge. Every part is optional.

    judge: measures harm, which the bundle then states.
    sensitivity: effect of each module's error, by task and module path, or a function that
        measures it. The function is called once, after all cheap checks.
    refit: trains the coded parts of a task. None for no training.
    """

    judge: HarmJudge | None = None
    sensitivity: Sensed = None
    refit: Refitter | None = None

    @property
    def tasks(self) -> frozenset[str]:
        """Names of the tasks whose harm is measured."""
        return self.judge.tasks() if self.judge else frozenset()

    @property
    def answer_tokens(self) -> int:
        """Maximum number of tokens of an answer that are judged."""
        return self.judge.answer_tokens if self.judge else ANSWER_TOKENS

    def check_harm(self) -> HarmJudge:
        """Return the judge that a limit on harm needs.

        Raises UsageError without a judge, or together with a refit.
        """
        if self.judge is None:
            raise UsageError(explain("a limit on harm needs a judge", do=_GIVE_PROMPTS))
        if self.refit:
            raise UsageError(
                explain(
                    "a refit cannot be combined with a limit on harm",
                    expected="a size or an error with it",
                )
            )
        return self.judge


DEFAULT_MAX_ERROR: Final = 0.03
"""Default limit on the error of the worst task; docs/evidence/index.md says why."""
DEFAULT_MEASURE: Final = "bias-aware"


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Options of a merge.

    limit: what the merge keeps; see :class:`hydraopt.merging.limits.Limit`. Default: no task's
        error is above DEFAULT_MAX_ERROR. A size holds every bit where it has room for that.
    importance: weight of each task's error. Default 1.
    fair: whether to bring all tasks as near to one error as possible.
    measure: measure of errors, or the name of one; see hydraopt.codec.costs.
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
