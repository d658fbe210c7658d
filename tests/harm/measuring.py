"""Harm of plain matrices."""

from __future__ import annotations

from hydraopt.basemodel.model import TaskFactors
from hydraopt.harm.judge import AnswerJudge
from hydraopt.linalg.shapes import Factors
from hydraopt.merging.look import MeasuredHarm


def measured(
    judge: AnswerJudge, task: str, factors: TaskFactors, apart: bool = False
) -> MeasuredHarm:
    """The harm of B (m, k) and A (k, n) by path to a task's answers."""
    return judge.measure(task, lambda: {p: Factors(*x) for p, x in factors.items()}, apart=apart)
