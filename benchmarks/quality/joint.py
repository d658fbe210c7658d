"""One adapter for several tasks, trained to give the answers of all their originals.

The average of adapters gives the answers of none of them. ``together`` measures how near training
on these answers comes. The output layer, if it has factors, stays at the mean.

Sources: several teachers for one student (You et al., KDD 2017, "Learning from Multiple Teacher
Networks"); self-written answers (LLM-QAT, arXiv 2305.17888).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from hydraopt.basemodel.model import Placed, TaskFactors
from hydraopt.basemodel.writing import not_finite
from hydraopt.harm.lesson import Lesson, Teacher, learner_of
from hydraopt.harm.refit import NOT_TRAINED
from hydraopt.harm.training import Judges, descend
from hydraopt.linalg.shapes import Factors
from hydraopt.linalg.svd import halved, thin
from hydraopt.merging.look import DEFAULT_HARM, HarmSettings

__all__ = ["mean_of", "trained_together"]

_STEPS: Final = 100
"""Steps per teacher."""
_RATE: Final = 0.03
"""First rate, relative to the root mean square of a side."""
_PARTS: Final = 4
"""The result is judged after each of so many parts of the steps."""


def mean_of(originals: Sequence[TaskFactors], rank: int) -> dict[str, Factors]:
    """Return the best factors of a rank for the mean of adapters, both sides of one length.

    originals: B (m, r) with the scale inside, A (r, n), by module path.
    """
    found = {}
    for path in sorted({path for factors in originals for path in factors}):
        pairs = [factors[path] for factors in originals if path in factors]
        left = np.concatenate([np.asarray(b, np.float64) for b, _ in pairs], axis=1)
        right = np.concatenate([np.asarray(a, np.float64) for _, a in pairs])
        whole = thin(left / len(originals), right)
        count = min(rank, int(whole.s.size))
        found[path] = halved(whole.U, whole.s, whole.V.T, count)
    return found


def trained_together(
    model: Any,
    teachers: Sequence[Teacher],
    rank: int,
    told: Callable[[int, int], None] | None = None,
    settings: HarmSettings = DEFAULT_HARM,
    steps: int | None = None,
) -> dict[str, Factors]:
    """Train one adapter of at most this rank to give the answers of all teachers, from their mean.

    Returns B (m, rank) with the scale inside and A (rank, n) by module path, as they were where
    the held-out answers drift least.

    told: called after every step with the steps done and their number.
    steps: number of steps. Default 100 per teacher.

    Raises NumericalError for logits that are not finite.
    """
    steps = _STEPS * len(teachers) if steps is None else steps
    learner = learner_of(model)
    lesson = Lesson.of(learner, teachers, settings.texts)
    judges = Judges.of(model, teachers, lesson)
    sides = {p: _Leaves(x) for p, x in mean_of([x.original for x in teachers], rank).items()}

    def learn(_step: int, page: int) -> None:
        placed: Placed = {path: x.factors() for path, x in sides.items()}
        lesson.learn(learner, placed, page)

    leaves = [x for side in sides.values() for x in side.leaves]
    best, least = dict[str, Factors](), np.inf
    for step in descend(
        replace(settings, steps=steps, rate=_RATE), leaves, len(lesson.pages), learn
    ):
        if told:
            told(step, steps)
        if step * _PARTS // steps > (step - 1) * _PARTS // steps:
            tried = {path: x.trained() for path, x in sides.items()}
            drift = judges.drift(tried)
            if drift.is_finite and (kl := drift.summary().harm.kl) < least:
                best, least = tried, kl
    if not best:
        raise not_finite(NOT_TRAINED)
    return best


class _Leaves:
    """Both sides of a module while they are trained.

    leaves: B (m, r) and A (r, n) in units of their root mean square at the start.
    """

    def __init__(self, start: Factors) -> None:
        tensors = [torch.tensor(x, dtype=torch.float32) for x in (start.B, start.A)]
        self._units = [float(x.square().mean().sqrt()) or 1.0 for x in tensors]
        self.leaves = [
            (x / unit).requires_grad_() for x, unit in zip(tensors, self._units, strict=True)
        ]

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return B and A, with gradients."""
        b, a = (x * unit for x, unit in zip(self.leaves, self._units, strict=True))
        return b, a

    def trained(self) -> Factors:
        """Return B and A as they are."""
        with torch.no_grad():
            return Factors.of(*(x.numpy().copy() for x in self.factors()))
