"""Evaluations whose intervals are of few draws: what an interval is has tests of its own."""

from __future__ import annotations

import functools

import pytest

from hydraopt.evaluate import scores as run
from hydraopt.evaluate.scores import paired_difference

__all__ = ["few_draws"]


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand, of each metric and task, take longer than the small models that are scored."""
    monkeypatch.setattr(run, "paired_difference", functools.partial(paired_difference, draws=30))
