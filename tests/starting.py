"""Adapters near an initial A that a seed draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydraopt.adapters import Adapter
from hydraopt.codec import Drawn, KnownStart

Pair = tuple[NDArray[Any], NDArray[Any]]


def near_start(modules: Mapping[str, Pair], seed: int = 42) -> dict[str, Pair]:
    """Return the modules, (B, A) by path, each with an initial A and a little of its A."""
    made = {}
    for path, drawn in _drawn({path: a.shape for path, (_, a) in modules.items()}, seed).items():
        b, a = modules[path]
        initial = drawn.basis(a.shape[1]).vectors.T
        made[path] = b, initial + 0.1 * np.linalg.norm(initial) / np.linalg.norm(a) * a
    return made


def started(adapter: Adapter, seed: int = 42) -> Adapter:
    """Return an adapter of such modules, which knows the initial A of each."""
    drawn = _drawn({path: (x.r, x.n) for path, x in adapter.modules.items()}, seed)
    modules = {
        path: dataclasses.replace(x, initial=drawn[path]) for path, x in adapter.modules.items()
    }
    return dataclasses.replace(adapter, modules=modules)


def _drawn(shapes: Mapping[str, tuple[int, int]], seed: int) -> dict[str, Drawn]:
    numbers = sum(r * n for r, n in shapes.values())
    start, drawn, first = KnownStart(seed, numbers), {}, 0
    for path, (r, n) in sorted(shapes.items()):
        drawn[path] = Drawn(start, first, r)
        first += r * n
    return drawn
