"""The standard errors that are told beside a harm."""

from __future__ import annotations

import numpy as np
import pytest

from hydraopt.harm import drift as drift_module
from hydraopt.harm.drift import Drift


def drift_with(kl) -> Drift:
    """An answer of one token for each KL."""
    same = np.ones(len(kl))
    return Drift(np.arange(len(kl)), np.array(kl, float), same, same, len(kl))


def told_of(monkeypatch, likely, kl):
    monkeypatch.setattr(drift_module, "likely_changes", lambda drift: np.array(likely, float))
    return drift_with(kl).summary()


def test_an_error_is_of_the_spread_that_a_sample_tells(monkeypatch) -> None:
    """The mean square error of the mean, by drawing samples of three again and again."""
    rng = np.random.default_rng(0)
    errors, means = [], []
    for _ in range(3000):
        likely, kl = rng.uniform(size=3), rng.exponential(size=3)
        told = told_of(monkeypatch, likely, kl)
        errors.append((told.likely_error**2, told.kl_error**2))
        means.append((told.harm.likely, told.harm.kl))
    wanted = np.square(np.array(means) - (0.5, 1.0)).mean(0)
    assert np.array(errors).mean(0) == pytest.approx(wanted, rel=0.1)


@pytest.mark.parametrize("likely", [0.0, 0.01, 0.3, 0.9])
def test_one_answer_is_not_told_as_sure(monkeypatch, likely: float) -> None:
    told = told_of(monkeypatch, [likely], [0.2])
    assert told.likely_error > 0
    assert told.kl_error == told.harm.kl == pytest.approx(0.2)
    # Wilson's interval of one answer at one deviation: its ends p0 solve (p0 - p)^2 = p0 (1 - p0).
    end = told.harm.likely + told.likely_error
    assert (end - likely) ** 2 == pytest.approx(end * (1 - end))
    assert 0.5 <= end <= 1
