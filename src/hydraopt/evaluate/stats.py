"""Paired bootstrap: how far a difference of two scores on the same rows can be chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "paired_difference"]

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A difference of scores, new less old, with its 95 % percentile interval.

    deviation: the bootstrap's standard deviation, from which the interval of a mean over tasks
    follows.
    """

    difference: float
    low: float
    high: float
    deviation: float

    def rounded(self) -> Interval:
        """Return the interval to four places."""
        values = self.difference, self.low, self.high, self.deviation
        return Interval(*(round(x, 4) for x in values))


def paired_difference(
    old: Numbers,
    new: Numbers,
    total: Callable[[Numbers], float],
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """Return ``total(new) - total(old)`` over rows drawn with replacement, the same for both.

    old, new: (rows, numbers) as of hydraopt.evaluate.metrics. Source: Efron and Tibshirani 1993, An
    Introduction to the Bootstrap, the percentile interval; Koehn 2004 for paired test sets.
    """
    rng = np.random.default_rng(seed)
    rows = old.shape[0]
    differences = np.empty(draws)
    for i in range(draws):
        pick = rng.integers(0, rows, rows)
        differences[i] = total(new[pick]) - total(old[pick])
    low, high = np.quantile(differences, [0.025, 0.975])
    spread = float(differences.std(ddof=1))
    return Interval(total(new) - total(old), float(low), float(high), spread)
