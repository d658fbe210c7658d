"""Random tasks of one module with known structure, and dense ways to look at them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hydraopt.codec import Array, Factors
from hydraopt.merging import Merged, Method


def unrelated(seed: int = 0, tasks: int = 3, m: int = 12, n: int = 10, r: int = 3) -> list[Factors]:
    """Tasks that have nothing in common."""
    rng = np.random.default_rng(seed)
    return [Factors(rng.standard_normal((m, r)), rng.standard_normal((r, n))) for _ in range(tasks)]


def clustered(
    seed: int = 0, labels: Sequence[int] = (0, 1, 0, 2, 1, 0), own: float = 0.3, r: int = 3
) -> list[Factors]:
    """Tasks of some kinds: kind k is one matrix, each task has a multiple of it and its own part.

    Factors of tasks of one kind are rotated against each other, so nothing shows in A and B alone.
    """
    rng = np.random.default_rng(seed)
    kinds = unrelated(seed + 1, max(labels) + 1, 20, 24, r)
    found = []
    for k in labels:
        strength = rng.uniform(0.5, 2.0) * rng.choice([-1, 1])
        b = np.hstack([strength * kinds[k].B, own * rng.standard_normal((20, 1))])
        a = np.vstack([kinds[k].A, rng.standard_normal((1, 24))])
        found.append(refactored(Factors(b, a), rng))
    return found


def refactored(factors: Factors, rng: np.random.Generator) -> Factors:
    """The same dW as ``B R^-1`` and ``R A``, R invertible and no rotation."""
    r = factors.A.shape[0]
    change = np.linalg.qr(rng.standard_normal((r, r)))[0] * rng.uniform(0.5, 2.0, r)
    return Factors(factors.B @ np.linalg.inv(change), change @ factors.A)


def dense(factors: Factors) -> Array:
    return factors.B @ factors.A


def made(merged: Merged, t: int = 0) -> Array:
    """The dW that a method made of task t."""
    return dense(merged.task(t))


def apart(got: Array, wanted: Array) -> float:
    """Relative Frobenius distance."""
    return float(np.linalg.norm(got - wanted) / max(float(np.linalg.norm(wanted)), 1e-300))


def average(
    factors: Sequence[Factors],
    weights: Sequence[float] | None = None,
    inner_scales: Sequence[float] | None = None,
) -> Merged:
    """The weighted mean of the dW's, exactly: what another package may register as a method."""
    w = weights or [1 / len(factors)] * len(factors)
    a = np.concatenate([x * f.A for x, f in zip(w, factors, strict=True)])
    one = Factors(np.concatenate([f.B for f in factors], axis=1), a)
    return Merged((one,) * len(factors), (1.0,) * len(factors))


AVERAGE = Method("average", average)
