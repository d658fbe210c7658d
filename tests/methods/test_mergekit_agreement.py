"""mergekit's own functions and ours on the same matrices, where mergekit is installed."""

from __future__ import annotations

import numpy as np
import pytest
from method_cases import apart, dense, made, unrelated

from hydraopt.methods.entries import breadcrumbs, magnitude, ties
from hydraopt.methods.lowrank import slerp

torch = pytest.importorskip("torch")
pytest.importorskip("mergekit", reason="mergekit is not installed; it is no dependency of ours")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def test_slerp_as_theirs() -> None:
    from mergekit.merge_methods.slerp import slerp as theirs

    factors = unrelated(0, 2)
    for t in (0.0, 0.3, 1.0):
        # As of 0.1.5 the first axis counts outputs, each with an angle of its own; ours is one.
        one, two = (torch.from_numpy(dense(f)).reshape(1, -1) for f in factors)
        want = theirs(torch.tensor([t]), one, two).reshape(12, 10).numpy()
        assert apart(made(slerp(factors, t)), want) < 1e-6


def test_trimming_and_election_as_theirs() -> None:
    from mergekit.merge_methods.generalized_task_arithmetic import get_mask
    from mergekit.sparsify import magnitude as trim

    factors = unrelated(1, 3)
    parts = [trim(torch.from_numpy(dense(f)), density=0.4) for f in factors]
    one = magnitude(factors[:1], weights=[1.0], density=0.4, rank=10)
    assert apart(made(one), parts[0].numpy()) < 1e-6
    stacked = torch.stack(parts)
    mask = get_mask(stacked, method="sum").to(stacked.dtype)
    count = (mask * (stacked != 0)).sum(0).clamp(min=1)
    want = ((stacked * mask).sum(0) / count).numpy()
    assert apart(made(ties(factors, density=0.4, rank=10)), want) < 1e-6


def test_breadcrumbs_as_theirs() -> None:
    from mergekit.sparsify import magnitude_outliers

    factors = unrelated(2, 2)
    want = sum(
        magnitude_outliers(torch.from_numpy(dense(f)), density=0.5, gamma=0.1).numpy()
        for f in factors
    )
    # They drop int(gamma N) of the largest and keep a share; we say where both ends are.
    ours = breadcrumbs(factors, beta=0.4, gamma=0.9, lam=1.0, rank=10)
    assert apart(made(ours), np.asarray(want)) < 1e-6
