"""Weights and options of methods as Python gives them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hydraopt import open_bundle
from hydraopt.merging import combine
from tests.conftest import MakeAdapter
from tests.methods.method_cases import unrelated


@pytest.fixture
def three(make_adapter: MakeAdapter, tmp_path: Path) -> list[Path]:
    return [
        make_adapter(tmp_path / name, {"h.0.q": (f.B, f.A)})
        for name, f in zip("abc", unrelated(1), strict=True)
    ]


def test_ratios_of_weights_count_however_large(three, tmp_path: Path) -> None:
    names = [adapter.name for adapter in three]
    one, other = (
        combine(
            three,
            tmp_path / str(size),
            "hydraopt",
            rank=np.int64(2),
            heads=1,
            weights={name: size * (i + 1) for i, name in enumerate(names)},
        )
        for size in (1.0, 5e307)
    )
    assert 0 < one.objective == pytest.approx(other.objective, rel=1e-6)
    assert one.errors == pytest.approx(other.errors, rel=1e-6)
    assert open_bundle(tmp_path / "1.0").recipe["options"]["rank"] == 2
