"""Interface to a judge, which uses the base model to measure the harm of some factors to a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from hydraopt.bundle.harm import Harm
from hydraopt.linalg.shapes import Factors

__all__ = ["JUDGED", "AnswerJudge", "HarmJudge", "Judged"]

JUDGED: Final = 256
"""Maximum number of prompts per task used to measure harm."""


@dataclass(frozen=True)
class Judged:
    """Measured harm, with standard errors for the choice of prompts.

    lost: expected share of answers that change, each counted by the probability that the original
        gives it: the number of right answers that are lost, if the original judges itself well.
    """

    harm: Harm
    likely_error: float
    kl_error: float
    lost: float


class HarmJudge(Protocol):
    """Judge that measures coded factors on the original's own answers."""

    def tasks(self) -> frozenset[str]:
        """Tasks for which it has prompts."""
        ...

    def measure(
        self,
        task: str,
        coded: Callable[[], Mapping[str, Factors]],
        error: float,
        apart: bool = False,
    ) -> Judged:
        """The harm of a task's decoded factors, by module path, B (m, k) with the scale inside and
        A (k, n); modules that are left out are those of the base model alone. error: their relative
        error, Frobenius. apart: on those prompts alone that a refit does not learn from."""
        ...


class AnswerJudge(HarmJudge, Protocol):
    """Judge of answers, with a limit on their length."""

    @property
    def answer_tokens(self) -> int:
        """Maximum number of tokens of an answer that are judged."""
        ...
