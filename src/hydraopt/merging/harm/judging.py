"""Interface to a judge, which uses the base model to measure the harm of some factors to a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from hydraopt.bundle.harm import Harm
from hydraopt.linalg.shapes import Factors

__all__ = ["JUDGED", "AnswerJudge", "HarmJudge", "Judged"]

JUDGED: Final = 256
"""Prompts of a task that harm is measured on, at most."""


@dataclass(frozen=True)
class Judged:
    """A measured harm, and the standard errors of its numbers: what other prompts might say.

    lost: expected share of answers that change, each counted by the probability that the original
    gives it: how many right answers are lost, if the original judges itself well.
    """

    harm: Harm
    likely_error: float
    kl_error: float
    lost: float


class HarmJudge(Protocol):
    """Measures coded factors on the original's own answers."""

    def tasks(self) -> frozenset[str]:
        """The tasks that it has prompts for."""
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
    """One that reads answers, and says how much of them."""

    @property
    def answer_tokens(self) -> int:
        """Tokens of an answer that are judged, at most."""
        ...
