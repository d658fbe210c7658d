"""How alike the tasks are in one module: the factors as given, their spaces, and the products.

Letters as in hydraopt.types. T' contents have the module; all results are (T', T') or (T',).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from hydraopt.core import ModuleCore, Source
from hydraopt.types import Array

__all__ = ["Likeness", "Watched", "likeness", "mean_of_pairs"]


@dataclass
class Watched:
    """A source of factors that notes, when it is read, how alike they are as given.

    a, b: cosines of the A's and of the B's as vectors, (T', T'); NaN where ranks differ or a factor
    is zero. They depend on how a dW was factored, which is what makes them interesting: adapters
    that began from the same initial A keep it.
    """

    source: Source
    a: Array = field(default_factory=lambda: np.zeros((0, 0)))
    b: Array = field(default_factory=lambda: np.zeros((0, 0)))

    def __call__(self) -> Iterator[tuple[int, Array, Array]]:
        pairs = list(self.source())
        self.a = _cosines([a for _, _, a in pairs])
        self.b = _cosines([b for _, b, _ in pairs])
        yield from pairs


def _cosines(matrices: Sequence[Array]) -> Array:
    result = np.full((len(matrices), len(matrices)), np.nan)
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, matrix in enumerate(matrices):
        groups.setdefault(matrix.shape, []).append(i)
    for members in groups.values():
        flat = np.stack([matrices[i].ravel() for i in members])
        result[np.ix_(members, members)] = _normalised(flat @ flat.T)
    return result


def _normalised(gram: Array) -> Array:
    """Cosines from inner products; NaN for zero vectors."""
    norms = np.sqrt(np.diag(gram).clip(0))
    scale = np.outer(norms, norms)
    result: Array = np.divide(gram, scale, out=np.full(gram.shape, np.nan), where=scale > 0)
    return result


@dataclass(frozen=True)
class Likeness:
    """inputs, outputs: share of the smaller row (column) space that lies in the other, that is the
    mean squared cosine of the principal angles, (T', T'). inner: <dW_s, dW_t>, (T', T').
    chance: what ``inputs`` and ``outputs`` are for random spaces of these ranks, mean over pairs.
    """

    inputs: Array
    outputs: Array
    inner: Array
    chance: tuple[float, float]

    @property
    def products(self) -> Array:
        """Cosines of the dW's; NaN for a dW of zero."""
        return _normalised(self.inner)


def likeness(core: ModuleCore) -> Likeness:
    """All of it from the small core; nothing of size m x n is formed."""
    ranks = np.array([s.size for s in core.s])
    owner = np.repeat(np.eye(ranks.size), ranks, axis=0)  # (sum r, T')
    left = (core.U.T @ core.U).astype(np.float64)
    right = (core.V.T @ core.V).astype(np.float64)
    s = np.concatenate(core.s)
    smaller = np.minimum.outer(ranks, ranks)
    larger = np.maximum.outer(ranks, ranks)

    def shared(gram: Array) -> Array:
        overlap = owner.T @ gram**2 @ owner
        result: Array = np.divide(
            overlap, smaller, out=np.full(overlap.shape, np.nan), where=smaller > 0
        )
        return result

    def chance(length: int) -> float:
        return mean_of_pairs(np.where(smaller > 0, np.minimum(larger / length, 1), np.nan)) or 0.0

    return Likeness(
        shared(right),
        shared(left),
        owner.T @ (left * right * np.outer(s, s)) @ owner,
        (chance(core.n), chance(core.m)),
    )


def mean_of_pairs(matrix: Array) -> float | None:
    """Mean over pairs of different tasks that are defined; None if there is none."""
    values = matrix[np.triu_indices(matrix.shape[0], 1)]
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else None
