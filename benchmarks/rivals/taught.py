"""Rivals with prompts: factors are moved, before they are rounded, to keep the original's answers.

What hydraopt's refit does for its own parts, for any code of numbers: both factors of all modules
are trained by the KL divergence from the original at the tokens of its own answers, while each step
sees what the rival's rounding does to them. A quarter of the answers is held out, the same that
hydraopt's refit holds out; what does best there is kept, the factors as they were if nothing does
better.

Sources: straight-through gradients (Bengio et al., arXiv 1308.3432); distillation from the model's
own words (LLM-QAT, arXiv 2305.17888).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.rivals.base import Modules
from hydraopt.merging import DEFAULT_HARM, HarmSettings
from hydraopt.model import Encoded, TaskFactors
from hydraopt.model.drift import drift_of, likely_changes, reference_of, surely_more
from hydraopt.model.refit import TrainingData, model_to_train, teacher_of, training_steps

__all__ = ["Round", "Teach", "taught"]

Round = Callable[[Modules], Modules]
"""What comes back of a task's factors from the rival's file."""
Teach = Callable[[str, Modules, Round], Modules]
"""(task, factors to start from, rounding) to factors that round better."""


def taught(
    model: Any,
    answers: Sequence[Encoded],
    original: TaskFactors,
    start: Modules,
    rounded: Round,
    settings: HarmSettings = DEFAULT_HARM,
    more: Sequence[Encoded] = (),
) -> Modules:
    """Return factors whose rounding keeps more of the original's answers than that of ``start``.

    answers: prompts with the original's answers as targets. settings: of a refit; its stages do not
    count here. more: further answers, of which most are learned from. Raises ValueError for fewer
    than four answers.
    """
    teacher = teacher_of(original, answers, more, settings)
    if not teacher.held_out:
        raise ValueError(f"{len(teacher.answers)} answers leave none to judge by")
    judges = reference_of(model, teacher.held_out, original)
    best, before = start, drift_of(model, judges, rounded(start))
    least = before.summary().harm.kl
    pupil = _Pupil.of(start)
    learner = model_to_train(model)
    data = TrainingData.of(learner, teacher, settings.batch_size)

    def add_gradients(step: int, batch: int) -> None:
        if (step - 1) % settings.recode_every == 0:
            pupil.round_with(rounded)
        data.add_gradients(learner, pupil.placed(), batch)

    for step in training_steps(settings, pupil.parameters, len(data.batches), add_gradients):
        if step in settings.judge_after:
            tried = pupil.modules()
            drift = drift_of(model, judges, rounded(tried))
            kl = drift.summary().harm.kl
            worse = surely_more(likely_changes(before), likely_changes(drift))
            if kl < least and not worse:
                best, least = tried, kl
    return best


@dataclass
class _Pupil:
    """Factors while they are trained. sides: by path, B (m, r) and A (r, n) in units of their root
    mean square at the start. lost: what rounding adds, as it was looked at last."""

    sides: dict[str, tuple[Tensor, Tensor]]
    units: Mapping[str, tuple[float, float]]
    lost: dict[str, tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, start: Modules) -> _Pupil:
        sides, units, lost = {}, {}, {}
        for path, pair in start.items():
            if not pair[1].shape[0]:  # a cut may leave nothing of a module
                continue
            tensors = [torch.from_numpy(np.array(x, np.float32)) for x in pair]
            b, a = (float(x.square().mean().sqrt()) or 1.0 for x in tensors)
            units[path] = b, a
            sides[path] = (
                (tensors[0] / b).requires_grad_(),
                (tensors[1] / a).requires_grad_(),
            )
            lost[path] = torch.zeros_like(tensors[0]), torch.zeros_like(tensors[1])
        return cls(sides, units, lost)

    @property
    def parameters(self) -> list[Tensor]:
        return [x for pair in self.sides.values() for x in pair]

    def modules(self) -> dict[str, tuple[Any, Any]]:
        """Return the factors as they are."""
        return {
            path: (
                (pair[0].detach() * self.units[path][0]).numpy(),
                (pair[1].detach() * self.units[path][1]).numpy(),
            )
            for path, pair in self.sides.items()
        }

    def round_with(self, rounded: Round) -> None:
        """Round the factors as they are, and remember what that does."""
        now = self.modules()
        for path, pair in rounded(now).items():
            b, a = (torch.from_numpy(x - y) for x, y in zip(pair, now[path], strict=True))
            self.lost[path] = b, a

    def placed(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the factors with rounding, through which gradients go as if it were none."""
        return {
            path: (
                pair[0] * self.units[path][0] + self.lost[path][0],
                pair[1] * self.units[path][1] + self.lost[path][1],
            )
            for path, pair in self.sides.items()
        }
