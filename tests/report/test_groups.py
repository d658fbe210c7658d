"""Order of the tasks in the matrix of likeness."""

from __future__ import annotations

import itertools

import numpy as np

from hydraopt.inspect import TaskCosines
from hydraopt.report.tasks import alike_of


def test_like_tasks_stand_side_by_side() -> None:
    rng = np.random.default_rng(0)
    families = rng.permutation(np.repeat([0, 1, 2], 4))
    cosines = np.where(families[:, None] == families, 0.8, 0.1) + 0.05 * rng.random((12, 12))
    cosines = (cosines + cosines.T) / 2
    np.fill_diagonal(cosines, 1.0)
    names = tuple(f"{family}-{i}" for i, family in enumerate(families))
    made = alike_of(TaskCosines(names, cosines), 12)
    assert made is not None
    assert sorted(made.tasks) == sorted(names)
    seen = [name[0] for name in made.tasks]
    assert sum(a != b for a, b in itertools.pairwise(seen)) == 2
