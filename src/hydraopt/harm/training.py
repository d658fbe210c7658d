"""Training on answers: the steps, and the held-out answers that judge a result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from hydraopt.harm.drift import (
    Drift,
    Reference,
    drift_of,
    reference_of,
    surely_changes_more,
    surely_drifts_more,
)
from hydraopt.harm.lesson import Lesson, Teacher
from hydraopt.linalg.shapes import Factors
from hydraopt.merging.look import HarmSettings

__all__ = ["Judges", "descend"]

_WARM: Final = 5
"""Steps in which the rate rises to its full value."""


def descend(
    how: HarmSettings, learned: Sequence[Tensor], batches: int, learn: Callable[[int, int], None]
) -> Iterator[int]:
    """Take steps with Adam, and yield the number of each after it is done.

    learned: leaves that require a gradient.
    batches: number of batches to draw from.
    learn: called with the step, 1 for the first, and the number of its batch; adds the gradients.
    """
    optimizer = torch.optim.Adam(learned, lr=how.rate, betas=(0.9, 0.98))
    order, waiting = np.random.default_rng(0), list[int]()
    for step in range(1, how.steps + 1):
        waiting = waiting or order.permutation(batches).tolist()
        falling = 1 - (step - 1) / how.steps
        optimizer.param_groups[0]["lr"] = how.rate * min(step / _WARM, 1.0) * falling
        optimizer.zero_grad()
        learn(step, waiting.pop())
        optimizer.step()
        yield step


@dataclass(frozen=True)
class Judges:
    """Held-out answers of a teacher.

    decisive: number of the first ones, which the late ones must not outvote.
    """

    model: Any
    reference: Reference
    decisive: int

    @classmethod
    def of(cls, model: Any, teacher: Teacher, lesson: Lesson) -> Judges:
        """Prepare the answers; next tokens other than the lesson's are not compared."""
        given = teacher.held_out, teacher.original, lesson.among.tokens
        return cls(model, reference_of(model, *given), len(teacher.judging))

    def drift(self, factors: Mapping[str, Factors]) -> Drift:
        """Return the drift of all answers under other factors."""
        given = {path: (x.B, x.A) for path, x in factors.items()}
        return drift_of(self.model, self.reference, given)

    def outvoted(self, before: Drift, after: Drift) -> bool:
        """Return whether a drift with less KL is worse all the same."""
        first = range(self.decisive)
        if surely_drifts_more(before.only(first), after.only(first)):
            return True
        return surely_changes_more(before, after)
