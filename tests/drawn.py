"""Adapters that started where PEFT starts, without PEFT."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydraopt.codec import Generator

__all__ = ["drawn_modules"]

Pair = tuple[NDArray[Any], NDArray[Any]]


def drawn_modules(
    seed: int,
    modules: int = 4,
    r: int = 8,
    m: int = 64,
    n: int = 640,
    change: float = 0.3,
    before: int = 0,
) -> dict[str, Pair]:
    """(B, A) of ``layers.0.q_proj`` and so on, drawn with a seed and trained for a while.

    change: norm of the training's change, relative to that of the initial A. before: numbers that
    something else drew first.
    """
    rng, generator = np.random.default_rng(seed), Generator(seed)
    pairs: dict[str, Pair] = {}
    for i in range(modules):
        offset = before + i * r * (2 * n + m) + r * (n + m)
        a = generator.numbers(offset, r * n).reshape(r, n) / 2**23 / np.sqrt(n)
        a += change * a.std() * rng.standard_normal((r, n))
        pairs[f"layers.{i}.q_proj"] = 0.01 * rng.standard_normal((m, r)), a
    return pairs
