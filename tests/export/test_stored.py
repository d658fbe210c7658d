"""Modules as the formats of other tools want them: bounded before they are made."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hydraopt.codec import Factors
from hydraopt.errors import ExportError
from hydraopt.export.modules import stored_modules


def test_empty_modules_take_no_more_than_the_bundle_warrants(tmp_path) -> None:
    """A module without parts gets one of zeros, and its shape is but two numbers of a file."""

    def task(side: int) -> Any:
        modules = {f"h.{i}.q": SimpleNamespace(path=f"h.{i}.q", m=side, n=side) for i in range(6)}
        return SimpleNamespace(
            name="x",
            original=None,
            entry=SimpleNamespace(dtype="F16"),
            bundle=SimpleNamespace(path=tmp_path),
            contents=SimpleNamespace(size=580),
            modules=modules,
            factors=lambda: {
                path: Factors(np.zeros((side, 0)), np.zeros((0, side))) for path in modules
            },
        )

    assert [x.rank for x in stored_modules(task(8), "same")] == [1] * 6
    with pytest.raises(ExportError):
        stored_modules(task(1 << 24), "same")
