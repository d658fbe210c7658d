"""Collaborator of a merge that runs the base model: sensitivities, harm on prompts, refits.

``hydraopt.harm`` implements it; a merge knows only what is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from hydraopt.bundle.harm import ANSWER_TOKENS, MOST_ANSWER_TOKENS, Harm
from hydraopt.coding.records import PartsRecord
from hydraopt.compress.recode import CodedModule
from hydraopt.errors import UsageError, explain
from hydraopt.linalg.shapes import Factors
from hydraopt.merging.weights import Sensed

__all__ = [
    "DEFAULT_HARM",
    "CodedModules",
    "HarmJudge",
    "HarmSettings",
    "Look",
    "MeasuredHarm",
    "Refitter",
]

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
