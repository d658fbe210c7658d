"""A first guess of size against error: the planner's own estimates, with nothing rounded or coded.

The planner minimises harm; people ask for the relative Frobenius error. This is what the plan that
minimises harm is expected to leave of it, by the planner's own tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hydraopt.coding.forms import Mode, Way
from hydraopt.compress.core import ModuleCore
from hydraopt.compress.measure import Measure
from hydraopt.compress.plan import ModulePlan, plan_module
from hydraopt.compress.sides import BasisPlan, SideTable, side_table
from hydraopt.linalg.shapes import Array

__all__ = ["Guess", "guess_module", "squared_errors"]


@dataclass(frozen=True)
class Guess:
    """One module at one price: bits and cost (in harm) of its plan; errors, |dW - dW~|^2, (T',)."""

    plan: ModulePlan
    bits: float
    cost: float
    errors: Array


def guess_module(
    core: ModuleCore,
    weights: Sequence[float],
    price: float,
    measure: Measure,
    modes: Sequence[Mode],
) -> Guess:
    """The plan of a module at ``price`` and what it would leave; arguments as for plan_module."""
    plan = plan_module(core, weights, price, measure, modes)
    return Guess(plan, plan.bits, plan.cost, squared_errors(core, plan, measure))


def squared_errors(core: ModuleCore, plan: ModulePlan, measure: Measure) -> Array:
    """|dW_t - dW_t~|^2 that ``plan`` is expected to leave, for each task of the module, (T',)."""
    return np.array([_squared_error(core, plan, i, measure) for i in range(len(plan.tasks))])


def _squared_error(core: ModuleCore, plan: ModulePlan, i: int, measure: Measure) -> float:
    task = plan.tasks[i]
    vectors = core.vectors_of(i)
    left = _table(task.mode.left, core.m, plan.left, vectors)
    right = _table(task.mode.right, core.n, plan.right, vectors)
    energy = core.s[i] ** 2
    # As the planner writes them: in the order of what the bases explain.
    explained = energy * (1 - left.lost[:, 0]) * (1 - right.lost[:, 0])
    order = np.argsort(-explained, kind="stable")
    written = order[: task.left.size]
    noise_left, lost_left = left.at(written, task.left)
    noise_right, lost_right = right.at(written, task.right)
    noise, kept = noise_left + noise_right, (1 - lost_left) * (1 - lost_right)
    gain = measure.coefficient(noise)
    share = kept * ((1 - gain) ** 2 + noise * gain**2) + (1 - kept)
    return float(energy[written] @ share + energy[order[task.left.size :]].sum())


def _table(way: Way, length: int, basis: BasisPlan | None, vectors: slice) -> SideTable:
    own = np.zeros((0, 0)) if basis is None else basis.space.coordinates[vectors, : basis.q]
    return side_table(way, length, basis, own)
