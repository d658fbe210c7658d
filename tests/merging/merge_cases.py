"""Synthetic adapters to merge, and what their bundles decode to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hydraopt import open_bundle, read_adapters
from hydraopt.codec import Factors
from tests.compress.core_factors import Pair, dense, low_rank, orthonormal

PATHS = ("h.0.q", "h.0.v", "h.1.q", "h.1.v")
Modules = dict[str, Pair]


def modules_of(seed: int, *, m: int = 48, n: int = 64, r: int = 4) -> Modules:
    """Four modules whose inputs are partly common to all seeds."""
    width = max(6, r)
    common = {path: orthonormal(np.random.default_rng(i), n, width) for i, path in enumerate(PATHS)}
    rng = np.random.default_rng(100 + seed)
    modules = {}
    for path in PATHS:
        b, a = low_rank(rng, m, n, r, right=common[path])
        modules[path] = ((0.1 * b).astype(np.float32), (a + 0.02).astype(np.float32))
    return modules


def near(modules: Modules, seed: int, share: float = 0.01) -> Modules:
    """The same with noise on every number, a ``share`` of its matrix's root mean square."""
    rng = np.random.default_rng(seed)

    def moved(x: np.ndarray) -> np.ndarray:
        step = share * float(np.sqrt(np.mean(x**2)))
        return (x + step * rng.standard_normal(x.shape)).astype(np.float32)

    return {path: (moved(b), moved(a)) for path, (b, a) in modules.items()}


def decoded(path: Path) -> dict[str, dict[str, Factors]]:
    bundle = open_bundle(path)
    return {name: task.factors() for name, task in bundle.items()}


def originals(folders: list[Path]) -> dict[str, dict[str, Factors]]:
    return {
        adapter.name: {
            path: Factors(*(x.astype(np.float64) for x in module.factors()))
            for path, module in adapter.modules.items()
        }
        for adapter in read_adapters(folders)
    }


def measured(got: Mapping[str, Factors], wanted: Mapping[str, Factors]) -> float:
    """Relative error over all modules, from dense matrices."""
    difference = total = 0.0
    for path, factors in wanted.items():
        full = dense(factors)
        difference += float(np.sum((dense(got[path]) - full) ** 2))
        total += float(np.sum(full**2))
    return math.sqrt(difference / total)
