"""Tasks of a module that have more in common with one another than with the others.

A basis over all tasks holds directions of each, and every coordinate over it has to be paid for.
One of a few tasks is small: these have all of theirs in it, and the others what they share with
them. Which family is worth a basis depends on the price of a bit: the finer the coding, the fewer
tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.compress.spectrum import Stacked
from hydraopt.linalg.shapes import Array

__all__ = ["MOST_TASKS", "Family", "families_of"]

Family = NDArray[np.int64]
"""Tasks of a module that belong to a family, in rising order."""

MOST_TASKS: Final = 256
"""Number of tasks above which no families are sought.
Joining more tasks step by step would take longer than planning."""
_CLOSER: Final = 1.25
"""Minimum ratio of the mean overlap within a family to the mean one of any two tasks."""
_TOGETHER: Final = 1 << 19
"""Inner products of vectors that are computed at once."""


def families_of(sides: Sequence[Stacked], values: Sequence[Array]) -> tuple[Family, ...]:
    """Return a family of 2 or 3 tasks, one of 4 to 7, of 8 to 15 and so on, below all tasks.

    Of each size class it is the family in which a task has most in common with the others; a class
    without any is left out.

    The closest two are joined, tasks or families, until all are one (average linkage; Sokal and
    Michener 1958). sides: the tasks' singular vectors side by side, (N, sum r) each. values: their
    singular values.
    """
    tasks = len(values)
    if not 2 < tasks <= MOST_TASKS or not all(s.size for s in values):
        return ()
    alike = np.zeros((tasks, tasks))
    for stacked in sides:
        alike += _overlaps(stacked, values)
    least = _CLOSER * float(alike.sum()) / (tasks * (tasks - 1))
    best: dict[int, tuple[float, Family]] = {}
    for family, mean in _joined(alike):
        size, common = family.size.bit_length(), mean * (family.size - 1)
        if family.size < tasks and mean > least and common > best.get(size, (0.0, family))[0]:
            best[size] = common, family
    return tuple(best[size][1] for size in sorted(best))


def _joined(alike: Array) -> list[tuple[Family, float]]:
    """Return every family that arises, and the mean overlap of two of its tasks."""
    links, made = alike.copy(), []
    np.fill_diagonal(links, -1.0)
    members = [np.array([i]) for i in range(len(alike))]
    for _ in range(len(alike) - 1):
        one, other = sorted(map(int, divmod(int(links.argmax()), len(links))))
        sizes = members[one].size, members[other].size
        members[one] = np.sort(np.concatenate([members[one], members[other]]))
        mean = (sizes[0] * links[one] + sizes[1] * links[other]) / sum(sizes)
        mean[links[one] < 0] = -1.0  # those that have gone, and itself
        links[one] = links[:, one] = mean
        links[other] = links[:, other] = -1.0
        links[one, one] = -1.0
        inside = alike[np.ix_(members[one], members[one])]
        made.append((members[one], float(inside.sum()) / (inside.size - len(inside))))
    return made


def _overlaps(stacked: Stacked, values: Sequence[Array]) -> Array:
    """Return cosines between the scatters ``sum_i s_i^2 v_i v_i^T`` of one side, (tasks, tasks).

    They are 0 to 1; 0 for a task with itself and with a task of zeros.
    """
    edges = np.cumsum([0, *(s.size for s in values)])
    units = [s / (float(s.max()) or 1.0) for s in values]
    weights = np.concatenate(units).astype(np.float32)
    scaled = stacked * weights
    sums = np.empty((len(values), len(values)))
    most = max(_TOGETHER // max(scaled.shape[1], 1), 1)  # all products at once may not fit
    for some in _runs(edges, most):
        rows = scaled[:, edges[some.start] : edges[some.stop]].T @ scaled
        across = np.add.reduceat(np.square(rows, out=rows), edges[:-1], axis=1)
        starts = edges[some] - edges[some.start]
        sums[some] = np.add.reduceat(across.astype(np.float64), starts, axis=0)
    own = np.sqrt(np.maximum(np.diag(sums), 1e-300))
    cosines: Array = sums / np.outer(own, own)
    np.fill_diagonal(cosines, 0.0)
    return cosines


def _runs(edges: NDArray[np.int64], most: int) -> Iterator[slice]:
    """Yield runs of tasks with at most ``most`` vectors together, or of one task."""
    first = 0
    while first < len(edges) - 1:
        last = max(int(np.searchsorted(edges, edges[first] + most, "right")) - 1, first + 1)
        yield slice(first, last)
        first = last
