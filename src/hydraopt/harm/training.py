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
from hydraopt.harm.training_data import Teacher, TrainingData
from hydraopt.linalg.shapes import Factors
from hydraopt.merging.look import HarmSettings

__all__ = ["HeldOutAnswers", "training_steps"]

_WARM_UP: Final = 5
"""Steps in which the rate rises to its full value."""


def training_steps(
    settings: HarmSettings,
    parameters: Sequence[Tensor],
    batches: int,
    add_gradients: Callable[[int, int], None],
) -> Iterator[int]:
    """Take steps with Adam, and yield the number of each after it is done.

    parameters: leaves that require a gradient.
    batches: number of batches to draw from.
    add_gradients: called with the step, 1 for the first, and the number of its batch.
    """
    optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate, betas=(0.9, 0.98))
    order, waiting = np.random.default_rng(0), list[int]()
    for step in range(1, settings.steps + 1):
        waiting = waiting or order.permutation(batches).tolist()
        decay = 1 - (step - 1) / settings.steps
        optimizer.param_groups[0]["lr"] = settings.learning_rate * min(step / _WARM_UP, 1.0) * decay
        optimizer.zero_grad()
        add_gradients(step, waiting.pop())
        optimizer.step()
        yield step


@dataclass(frozen=True)
class HeldOutAnswers:
    """Held-out answers of a teacher.

    decisive: number of the first ones, which the late ones must not outvote.
    """

    model: Any
    reference: Reference
    decisive: int

    @classmethod
    def of(cls, model: Any, teacher: Teacher, data: TrainingData) -> HeldOutAnswers:
        """Prepare the answers. Only the next tokens of the training data are compared."""
        tokens = data.next_tokens.tokens
        reference = reference_of(model, teacher.held_out, teacher.original, tokens)
        return cls(model, reference, len(teacher.judging))

    def drift(self, factors: Mapping[str, Factors]) -> Drift:
        """Return the drift of all answers under other factors."""
        placed = {path: (x.B, x.A) for path, x in factors.items()}
        return drift_of(self.model, self.reference, placed)

    def is_worse(self, before: Drift, after: Drift) -> bool:
        """Return whether a drift with less KL is worse all the same."""
        first = range(self.decisive)
        if surely_drifts_more(before.only(first), after.only(first)):
            return True
        return surely_changes_more(before, after)
