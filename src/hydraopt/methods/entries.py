"""Methods that look at single entries of dW: signs, magnitudes, chance.

They depend on dW alone, not on how it was factored, and their results are not of low rank. So each
is formed block by block (:mod:`hydraopt.methods.blocks`) and refitted to ``rank``, by default the
largest of the tasks, as PEFT's ``*_svd`` variants do; ``Merged.added`` says what that cost.

Trimming is per module. The papers of TIES, DELLA and breadcrumbs trim over whole models or layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from hydraopt.errors import UsageError, explain
from hydraopt.linalg.shapes import Array, Factors
from hydraopt.methods.blocks import BLOCK, largest, refit, uniform
from hydraopt.methods.checked import checked
from hydraopt.methods.small import (
    Merged,
    check_shapes,
    one_for_all,
    rank_for,
    weights_for,
)

__all__ = [
    "breadcrumbs",
    "dare_linear",
    "dare_ties",
    "della",
    "elected",
    "magnitude",
    "ties",
    "trimmed",
]

Sparse = Callable[[int, int, Array], Array]
"""(task, first row, rows) to the rows with some entries put to zero."""


def elected(matrices: Iterable[Array], weights: Array) -> Array:
    """TIES' election and disjoint mean, entry by entry, as PEFT's ``ties`` does it.

    matrices: one for each weight, taken one at a time and not held. The sign is that of the sum, +
    for 0; the result is the weighted sum of the entries that have it over their number. Yadav et
    al., arXiv 2306.01708, algorithm 1.
    """
    sums: list[Array] = []  # of all entries, of those above 0, of those below
    for matrix, weight in zip(matrices, weights, strict=True):
        if not sums:
            sums = [np.zeros(matrix.shape) for _ in range(3)]
            counts = [np.zeros(matrix.shape, np.int32) for _ in range(2)]
            part = np.empty(matrix.shape)
        sums[0] += matrix
        # Both signs are summed, as the election is over only after the last matrix.
        for bound, total, count in zip((np.maximum, np.minimum), sums[1:], counts, strict=True):
            bound(matrix, 0.0, out=part)
            count += part != 0
            part *= weight
            total += part
    up = sums[0] >= 0
    mean: Array = np.where(up, *sums[1:]) / np.maximum(np.where(up, *counts), 1)
    return mean


def trimmed(values: Array, density: float) -> Array:
    """Return an array with all but its int(density * size) largest magnitudes put to zero; of equal
    magnitudes the first ones stay."""
    keep = int(density * values.size)
    if keep >= values.size:
        return values.copy()
    if keep <= 0:
        return np.zeros_like(values)
    size = np.abs(values).ravel()
    least = np.partition(size, -keep)[-keep]
    stays = size > least
    equal = np.flatnonzero(size == least)
    stays[equal[: keep - int(np.count_nonzero(stays))]] = True
    return np.where(stays.reshape(values.shape), values, 0.0)


def _blend(
    factors: Sequence[Factors],
    weights: Array,
    sparse: Sparse,
    elect: bool,
    lam: float,
    rank: int | None,
    seed: int,
    block: int,
) -> Merged:
    """lam times the (elected or plain) weighted sum of the sparse dW's, refitted to a rank."""
    m, n = check_shapes(factors)

    def rows(start: int, stop: int) -> Array:
        blocks = (sparse(t, start, f.B[start:stop] @ f.A) for t, f in enumerate(factors))
        if elect:
            return lam * elected(blocks, weights)
        total: Array = sum(w * each for w, each in zip(weights, blocks, strict=True))
        return lam * total

    common, added = refit(rows, m, n, rank_for(rank, factors), seed=seed, block=block)
    return one_for_all(common, len(factors), added)


def _magnitude_mask(factors: Sequence[Factors], density: float, block: int) -> Sparse:
    m, n = check_shapes(factors)
    cuts = [largest(f, int(density * m * n), block) for f in factors]
    return lambda t, start, rows: rows * cuts[t].of(start, rows)


def _random_mask(density: float, seed: int) -> Sparse:
    """DARE: each entry stays with probability ``density`` and is divided by it."""

    def sparse(t: int, start: int, rows: Array) -> Array:
        if density >= 1:
            return rows
        drawn = uniform(seed, t, start, start + rows.shape[0], rows.shape[1])
        return rows * (drawn < density) / density

    return sparse


@checked
def magnitude(
    factors: Sequence[Factors],
    weights: Sequence[float] | None = None,
    density: float = 0.5,
    rank: int | None = None,
    block: int = BLOCK,
) -> Merged:
    """Each dW keeps its largest entries, a share of ``density``; weighted sum, default 1/T each."""
    w = weights_for(weights, len(factors), 1 / max(len(factors), 1))
    return _blend(factors, w, _magnitude_mask(factors, density, block), False, 1.0, rank, 0, block)


@checked
def ties(
    factors: Sequence[Factors],
    weights: Sequence[float] | None = None,
    density: float = 0.2,
    lam: float = 1.0,
    rank: int | None = None,
    block: int = BLOCK,
) -> Merged:
    """TIES: trim to the largest entries, elect a sign, mean of those that agree, times ``lam``.

    Yadav et al., NeurIPS 2023, arXiv 2306.01708; density 0.2 and lam 1 are the paper's values
    where there is no validation set. weights: default 1 each.
    """
    w = weights_for(weights, len(factors), 1.0)
    return _blend(factors, w, _magnitude_mask(factors, density, block), True, lam, rank, 0, block)


@checked
def dare_linear(
    factors: Sequence[Factors],
    weights: Sequence[float] | None = None,
    density: float = 0.5,
    rank: int | None = None,
    seed: int = 0,
    block: int = BLOCK,
) -> Merged:
    """DARE: drop entries by chance, rescale the rest, weighted sum (default 1/T each).

    Yu et al., ICML 2024, arXiv 2311.03099; the paper goes down to a density of 0.1. The mask of a
    task follows from the seed and its place among the tasks.
    """
    w = weights_for(weights, len(factors), 1 / max(len(factors), 1))
    return _blend(factors, w, _random_mask(density, seed), False, 1.0, rank, seed, block)


@checked
def dare_ties(
    factors: Sequence[Factors],
    weights: Sequence[float] | None = None,
    density: float = 0.5,
    lam: float = 1.0,
    rank: int | None = None,
    seed: int = 0,
    block: int = BLOCK,
) -> Merged:
    """DARE's dropping in place of TIES' trimming; arXiv 2311.03099, section 4.3."""
    w = weights_for(weights, len(factors), 1.0)
    return _blend(factors, w, _random_mask(density, seed), True, lam, rank, seed, block)


@checked
def della(
    factors: Sequence[Factors],
    weights: Sequence[float] | None = None,
    density: float = 0.7,
    epsilon: float = 0.07,
    lam: float = 1.1,
    rank: int | None = None,
    seed: int = 0,
    block: int = BLOCK,
) -> Merged:
    """DELLA: dropping by chance where large entries of a row stay likelier, then TIES' election.

    Deep et al., arXiv 2406.11617; the defaults are the example of the authors' code (drop rate 0.3,
    window 0.14, lambda 1.1), the paper searches them on validation data. An entry of rank i among
    the n of its row, 0 the smallest, stays with probability density - epsilon + 2 epsilon i /
    (n - 1) and is divided by it. With density 1 nothing is dropped. Raises UsageError where a
    probability would leave (0, 1).
    """
    if density < 1 and not (0 <= epsilon < min(density, 1 - density)):
        raise UsageError(
            explain(
                "epsilon does not fit the density",
                got=epsilon,
                expected=f"0 to less than {min(density, 1 - density):.3g}",
            )
        )

    def sparse(t: int, start: int, rows: Array) -> Array:
        if density >= 1:
            return rows
        n = rows.shape[1]
        place = np.argsort(np.argsort(np.abs(rows), axis=1, kind="stable"), axis=1)
        stays = density - epsilon + 2 * epsilon * place / max(n - 1, 1)
        drawn = uniform(seed, t, start, start + rows.shape[0], n)
        kept: Array = rows * (drawn < stays) / stays
        return kept

    w = weights_for(weights, len(factors), 1.0)
    return _blend(factors, w, sparse, True, lam, rank, seed, block)


@checked
def breadcrumbs(
    factors: Sequence[Factors],
    weights: Sequence[float] | None = None,
    beta: float = 0.85,
    gamma: float = 0.993,
    lam: float = 0.3,
    rank: int | None = None,
    block: int = BLOCK,
) -> Merged:
    """Model Breadcrumbs: drop both the many small entries and the few largest; sum times ``lam``.

    Davari and Belilovsky, ECCV 2024, arXiv 2312.06795: of the entries in order of magnitude those
    from the share ``beta`` up to the share ``gamma`` stay. The authors' code starts its search at
    beta 0.85, gamma 0.994 and lam 0.2, near the defaults. weights: default 1 each. Raises
    UsageError unless 0 <= beta < gamma <= 1.
    """
    if not 0 <= beta < gamma <= 1:
        raise UsageError(
            explain("beta and gamma leave nothing", got=f"{beta}, {gamma}", expected="beta < gamma")
        )
    m, n = check_shapes(factors)
    count = m * n
    low = [largest(f, count - int(beta * count), block) for f in factors]
    high = [largest(f, count - int(gamma * count), block) for f in factors]

    def sparse(t: int, start: int, rows: Array) -> Array:
        kept: Array = rows * (low[t].of(start, rows) & ~high[t].of(start, rows))
        return kept

    w = weights_for(weights, len(factors), 1.0)
    return _blend(factors, w, sparse, False, lam, rank, 0, block)
