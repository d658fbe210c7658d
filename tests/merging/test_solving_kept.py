"""Tasks that are to keep an error, where errors rise in steps."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hydraopt.merging import MergeOptions, solving
from hydraopt.merging.solving import KeptError, solve_kept


@dataclass
class Weights:
    """By task; errors depend on nothing else here."""

    by_task: np.ndarray
    counting: None = None

    @property
    def whole(self) -> np.ndarray:
        return self.by_task


@dataclass
class StepJob:
    """One task, whose error is 0.2 up to a price and 0.4 beyond it; no price gives more or less."""

    edge: float
    restate: None = None

    @property
    def pieces(self) -> Any:
        return SimpleNamespace(contents=1, tasks=[SimpleNamespace(content=0, name="a")])

    def manifest(self, price: float) -> Any:
        error = 0.2 if price <= self.edge else 0.4
        return SimpleNamespace(tasks=[SimpleNamespace(content=0, error=error)])


@pytest.mark.parametrize("edge", np.geomspace(0.02, 0.9, 12))
def test_a_task_whose_error_rises_in_steps_keeps_it(
    monkeypatch: pytest.MonkeyPatch, edge: float
) -> None:
    tried: list[float] = []

    class Passes:
        def run(self, price: float, whole: np.ndarray, counting: None, what: str = "") -> float:
            tried.append(price / float(whole[0]))
            return tried[-1]

    monkeypatch.setattr(solving, "passes_of", lambda *_: nullcontext(Passes()))
    monkeypatch.setattr(solving, "weights_for", lambda *_: Weights(np.ones(1)))
    job: Any = StepJob(edge)
    kept = {"a": KeptError(0.3, 0.0, 0.3)}
    found: Any = solve_kept(job, 1.0, MergeOptions(), kept)
    assert job.manifest(found).tasks[0].error <= 0.3
    assert found == max(price for price in tried if price <= edge)
