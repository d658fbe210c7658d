"""Costs of errors in each part of an adapter, measured on its answers.

A small error e adds e' F e / 2 to the KL, with F the Fisher information: the expected product of
gradients of the log probability of tokens that the model itself draws (Kunstner et al. 2019,
1905.12558: not of the answers' own tokens). Noise meets the diagonal of F; a part that is left out
meets its square along that part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hydraopt.basemodel.model import Placed
from hydraopt.compress.divide import PartCosts
from hydraopt.harm.lesson import Lesson
from hydraopt.harm.sides import Sides
from hydraopt.linalg.shapes import Array

__all__ = ["part_costs"]


def part_costs(
    model: Any, lesson: Lesson, fixed: Placed, sides: Mapping[str, Sides], texts: int
) -> dict[str, PartCosts]:
    """Return the costs of errors in the parts of modules, in nats an answer, by module path.

    Modules that no text reaches, such as experts, and those whose costs are not finite are left
    out.

    fixed: factors on the model whose costs are not measured.
    sides: parts whose costs are measured, of modules with ``lengths``.
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
    costs = {path: squares[path].costs(x, answers) for path, x in sides.items()}
    return {path: x for path, x in costs.items() if x is not None}


class _Squares:
    """Sums of squares of gradients of a module's sides, (k,); None if there were none."""

    def __init__(self) -> None:
        self.sums: tuple[Array, Array, Array] | None = None

    def take(self, left: Tensor, right: Tensor) -> None:
        """Add the squares of the gradients that are there, and clear them."""
        up, down = left.grad, right.grad
        if up is None or down is None:
            return
        along = (up * left.detach()).double().sum(0).square()
        now = (up.double().square().sum(0), down.double().square().sum(0), along)
        a, b, c = (x.cpu().numpy() for x in now)
        before = self.sums or (0.0, 0.0, 0.0)
        self.sums = (before[0] + a, before[1] + b, before[2] + c)
        left.grad = right.grad = None

    def costs(self, sides: Sides, answers: int) -> PartCosts | None:
        """Return the costs in nats an answer; None if they are not known.

        sides: those whose gradients were taken.
        """
        lengths = sides.coded.lengths
        if self.sums is None or lengths is None or not np.isfinite(self.sums).all():
            return None
        left, right = (x.detach().double().square().mean(0).cpu().numpy() for x in sides.both)
        noise_left, noise_right, along = self.sums
        return PartCosts(
            left * noise_left / (2 * answers),
            right * noise_right / (2 * answers),
            along / (2 * answers),
            lengths,
        )
