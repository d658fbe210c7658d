"""mergekit is installed from a package registry; tests do with a stand-in for what it prunes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.rivals.merging import by_mergekit


def half(tensor: Any, density: float, **options: Any) -> Any:
    """All entries, halved: what a method does around the pruning shows."""
    assert 0 < density < 1
    assert set(options) <= {"epsilon", "gamma", "rescale_norm"}
    return tensor / 2


@pytest.fixture(autouse=True)
def mergekit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "real_mergekit" in request.fixturenames:
        return
    norms = SimpleNamespace(l1="l1")
    module = SimpleNamespace(della_magprune=half, magnitude_outliers=half, RescaleNorm=norms)
    monkeypatch.setattr(by_mergekit, "sparsify", lambda: module)
