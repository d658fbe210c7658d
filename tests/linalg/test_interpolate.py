"""The monotone cubic, against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator

from hydraopt.linalg.interpolate import MonotoneCubic


@pytest.mark.parametrize("points", [2, 3, 9])
@pytest.mark.parametrize("kind", ["rising", "any", "level"])
def test_it_is_that_of_scipy(points: int, kind: str) -> None:
    rng = np.random.default_rng(points)
    for _ in range(50):
        x = np.cumsum(rng.exponential(size=points))
        y = rng.standard_normal(points)
        if kind == "rising":
            y = np.sort(y)
        elif kind == "level":
            y = np.round(y)
        at = np.concatenate([x, rng.uniform(x[0], x[-1], 50)])
        np.testing.assert_allclose(MonotoneCubic(x, y)(at), PchipInterpolator(x, y)(at), atol=1e-12)
