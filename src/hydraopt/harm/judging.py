"""Base class of judges: a judge measures harm, and the search shares bytes out by it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from hydraopt.bundle.harm import ANSWER_TOKENS
from hydraopt.harm.solve import solve_by_harm
from hydraopt.linalg.shapes import Factors
from hydraopt.merging.budget import HarmLimit, Size
from hydraopt.merging.look import HarmSolution, MeasuredHarm
from hydraopt.merging.outcome import Job
from hydraopt.merging.solving import Options

__all__ = ["BaseJudge"]


class BaseJudge(ABC):
    """Base class of :class:`hydraopt.merging.look.HarmJudge`."""

    answer_tokens: int = ANSWER_TOKENS

    @abstractmethod
    def tasks(self) -> frozenset[str]:
        """Return the names of the tasks that have prompts."""

    @abstractmethod
    def measure(
        self,
        task: str,
        coded: Callable[[], Mapping[str, Factors]],
        error: float,
        apart: bool = False,
    ) -> MeasuredHarm:
        """Measure the harm of a task's decoded factors."""

    def solve(self, job: Job, aim: Size | HarmLimit, options: Options) -> HarmSolution:
        """Search the draft of a size that does the least harm, or the smallest within a limit."""
        return solve_by_harm(job, aim, options, self)
