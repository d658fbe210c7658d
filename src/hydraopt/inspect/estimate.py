"""A first guess of size against error: the planner's own estimates, with nothing rounded or coded.

The planner minimises harm; people ask for the relative Frobenius error. This is what the plan that
minimises harm is expected to leave of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hydraopt.core import ModuleCore
from hydraopt.curve import FIRST_CLASS, noise_of
from hydraopt.measure import Measure
from hydraopt.parts import Mode, Way
from hydraopt.plan import BasisPlan, ModulePlan, plan_module
from hydraopt.types import Array

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
    result = np.zeros(len(plan.tasks))
    for i, task in enumerate(plan.tasks):
        s = core.s[i]
        left = _coordinates(plan.left, i)
        right = _coordinates(plan.right, i)
        product = np.diag(s)
        if task.mode.left is Way.SHARED:
            product = left.T @ product
        if task.mode.right is Way.SHARED:
            product = product @ right
        if Way.SHARED in (task.mode.left, task.mode.right):
            a, values, bt = np.linalg.svd(product, full_matrices=False)
            b = bt.T
        else:
            a = b = np.eye(s.size)
            values = s
        k = task.left.size
        energy = values**2
        noise = _noise(task.mode.left, a[:, :k], task.left, left, plan.left)
        noise = noise + _noise(task.mode.right, b[:, :k], task.right, right, plan.right)
        # The encoder's coefficient: lost effect weighs `unbiased` times what noise does.
        gain = measure.unbiased / (measure.unbiased + noise)
        kept = energy[:k] * ((1 - gain) ** 2 + noise * gain**2)
        outside = max(float(s @ s - energy.sum()), 0.0)
        result[i] = kept.sum() + energy[k:].sum() + outside
    return result


def _coordinates(plan: BasisPlan | None, i: int) -> Array:
    return plan.space.coordinates[i][:, : plan.q] if plan else np.zeros((0, 0))


def _noise(
    way: Way,
    vectors: Array,
    classes: NDArray[np.int64],
    coordinates: Array,
    basis: BasisPlan | None,
) -> Array:
    """Relative squared noise of each part on one side, (k,)."""
    if way is Way.EXPLICIT or basis is None:
        return noise_of(classes)
    basis_noise = noise_of(basis.classes)
    if way is Way.SHARED:
        return noise_of(classes) + (vectors**2).T @ basis_noise
    explained = (vectors.T @ coordinates) ** 2
    missed = np.clip(1 - explained.sum(axis=1), 0, 1) + explained @ basis_noise
    shift = np.round(2 * np.log2(np.maximum(missed, 1e-9))).astype(np.int64)
    own = np.minimum(classes + shift, classes)
    noise: Array = np.where(own >= FIRST_CLASS, noise_of(own), 1.0) * missed
    return noise
