"""The standard error that is told beside a KL."""

from __future__ import annotations

import numpy as np
import pytest

from hydraopt.harm.drift import Drift


def drift_with(kl) -> Drift:
    """An answer of one token for each KL."""
    same = np.ones(len(kl))
    return Drift(np.arange(len(kl)), np.array(kl, float), same, same, len(kl))


def test_an_error_is_of_the_spread_that_a_sample_tells() -> None:
    """The mean square error of the mean, by drawing samples of three again and again."""
    rng = np.random.default_rng(0)
    told = [drift_with(rng.exponential(size=3)).summary() for _ in range(3000)]
    wanted = np.mean([(x.harm.kl - 1) ** 2 for x in told])
    assert np.mean([x.kl_error**2 for x in told]) == pytest.approx(wanted, rel=0.1)


def test_one_answer_is_not_told_as_sure() -> None:
    told = drift_with([0.2]).summary()
    assert told.kl_error == told.harm.kl == pytest.approx(0.2)
