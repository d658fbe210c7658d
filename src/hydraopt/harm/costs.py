"""Costs of errors in each part of an adapter, measured on its own answers.

Near the original, an error e adds e' F e / 2 to the KL, with F the Fisher information, the expected
square of the gradient of the log probability of tokens drawn from the original (Kunstner et al.
2019, 1905.12558: not of the answers' own tokens). Noise meets its diagonal, and a part that is left
out meets its square along that part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from hydraopt.basemodel.model import Placed
from hydraopt.compress.divide import PartCosts
from hydraopt.harm.lesson import Lesson
from hydraopt.harm.sides import Sides
from hydraopt.linalg.shapes import Array

__all__ = ["part_costs"]

_MISSING: Final = 3.0
"""Weight of a part that is left out: training mends noise better than what is missing."""


def part_costs(
    model: Any, lesson: Lesson, fixed: Placed, sides: Mapping[str, Sides], texts: int
) -> dict[str, PartCosts]:
    """Return the costs of errors in the parts of modules, in nats an answer, by module path.

    fixed: factors on the model that do not count.
    sides: parts as they are in the original, of modules that have lengths.
    texts: number of answers to measure with.
    """
    draw, order = torch.Generator().manual_seed(0), np.random.default_rng(0)
    squares = {path: _Squares() for path in sides}
    answers = 0
    for page in order.permutation(len(lesson.pages)):
        placed = {path: x.factors() for path, x in sides.items()}
        lesson.sample(model, {**fixed, **placed}, int(page), draw)
        for path, x in sides.items():
            squares[path].take(x.left, x.right)
        answers += lesson.answers(int(page))
        if answers >= texts:
            break
    return {path: squares[path].costs(x, answers) for path, x in sides.items()}


class _Squares:
    """Sums of squares of gradients of a module's sides, (k,)."""

    left: Array | float = 0.0
    right: Array | float = 0.0
    whole: Array | float = 0.0

    def take(self, left: Tensor, right: Tensor) -> None:
        """Add the squares of the gradients that are there, and clear them."""
        up, down = left.grad, right.grad
        if up is None or down is None:  # an expert that no text reaches
            return
        a, b = (x.double().square().sum(0).cpu().numpy() for x in (up, down))
        along = (up * left.detach()).double().sum(0).square().cpu().numpy()
        self.left, self.right, self.whole = self.left + a, self.right + b, self.whole + along
        left.grad = right.grad = None

    def costs(self, sides: Sides, answers: int) -> PartCosts:
        """Return the costs in nats an answer; the sides are those whose gradients were taken."""
        strength = (x.detach().double().square().mean(0).cpu().numpy() for x in sides.both)
        left, right = (
            x * y / (2 * answers) for x, y in zip(strength, (self.left, self.right), strict=True)
        )
        whole = np.broadcast_to(_MISSING * self.whole / (2 * answers), left.shape)
        return PartCosts(left, right, whole, sides.lengths)
