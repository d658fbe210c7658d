"""How alike the tasks of a bundle are, against dense products."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt.bundle import Bundle, open_bundle
from hydraopt.inspect import task_cosines
from hydraopt.merging import merge
from tests.conftest import MakeAdapter

PATHS = ("h.0.q", "h.1.q")


def _modules(seed: int) -> dict[str, tuple[Any, Any]]:
    rng, common = np.random.default_rng(seed), np.random.default_rng(7)
    return {
        path: (
            common.standard_normal((30, 4)) + rng.standard_normal((30, 4)),
            common.standard_normal((4, 24)) + rng.standard_normal((4, 24)),
        )
        for path in PATHS
    }


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, make_adapter: MakeAdapter) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    made = [make_adapter(folder / f"t{i}", _modules(i)) for i in range(3)]
    return [*made, make_adapter(folder / "t3", _modules(0))]  # equal to t0


@pytest.fixture(scope="module")
def bundle(adapters: list[Path]) -> Bundle:
    path = adapters[0].parent / "x.hydra.safetensors"
    merge(adapters, path, size="58%", workers=1)
    return open_bundle(path)


def _dense(bundle: Bundle, name: str) -> Any:
    factors = bundle[name].factors()
    return np.concatenate([(f.B @ f.A).ravel() for f in factors.values()])


def test_cosines_are_those_of_the_products(bundle: Bundle) -> None:
    made = task_cosines(bundle, (), list(bundle))
    assert made.tasks == ("t0", "t1", "t2", "t3")
    flat = np.stack([_dense(bundle, name) for name in made.tasks]).astype(np.float64)
    norms = np.linalg.norm(flat, axis=1)
    np.testing.assert_allclose(made.cosines, flat @ flat.T / np.outer(norms, norms), atol=1e-5)
    assert made.cosines[0, 3] == pytest.approx(1)
    assert task_cosines(bundle, (), ("t1", "t2")).tasks == ("t1", "t2")
