"""Truncated SVDs of each adapter in fp16: the same rank everywhere, or parts by their energy."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.rivals.base import Compressor, Modules, Tasks, double
from benchmarks.rivals.numbers import FP16
from benchmarks.rivals.registry import SetShape
from benchmarks.rivals.stored import Cut, stored
from hydraopt.codec import thin
from hydraopt.codec.matrices import Thin

__all__ = ["FRACTIONS", "cut_by_energy", "cut_by_rank", "rows", "svd", "svd_by_energy"]

FRACTIONS = (0.5, 0.25, 0.1, 0.05, 0.025)


def svd(cut: Cut, setting: str) -> Compressor:
    """Return a compressor that stores what a cut leaves, in fp16."""
    return stored("svd", setting, FP16, cut)


def svd_by_energy(fraction: float) -> Compressor:
    """Return a compressor that keeps ``fraction`` of the numbers, by energy."""
    return svd(cut_by_energy(fraction), f"{100 * fraction:g} %")


def rows(shape: SetShape) -> list[Compressor]:
    """Return rows of a half, a quarter and an eighth of the rank, and of all fractions."""
    halves = sorted({max(shape.rank // x, 1) for x in (2, 4, 8)}, reverse=True)
    ranks = [svd(cut_by_rank(k), f"rank {k}") for k in halves]
    return [*ranks, *(svd_by_energy(x) for x in FRACTIONS)]


def _thins(tasks: Tasks) -> dict[str, dict[str, Thin]]:
    found = {}
    for task, modules in tasks.items():
        parts = {path: double(pair) for path, pair in modules.items()}
        found[task] = {path: thin(f.B, f.A) for path, f in parts.items()}
    return found


def _cut(thins: Mapping[str, Mapping[str, Thin]], keep: Callable[[str, str], int]) -> Tasks:
    found: dict[str, Modules] = {}
    for task, modules in thins.items():
        mine = {}
        for path, x in modules.items():
            k = keep(task, path)
            root = np.sqrt(x.s[:k])
            b, a = x.U[:, :k] * root, (x.V[:, :k] * root).T
            mine[path] = b.astype(np.float32), a.astype(np.float32)
        found[task] = mine
    return found


def cut_by_rank(rank: int) -> Cut:
    """Return a cut to the best ``rank`` parts of every module."""
    return lambda tasks: _cut(_thins(tasks), lambda task, path: rank)


def cut_by_energy(fraction: float) -> Cut:
    """Return a cut that chooses parts by their energy for a number stored.

    Energy is relative to the adapter's own. Parts are taken over all adapters and modules together,
    until ``fraction`` of the inputs' numbers is full.
    """

    def cut(tasks: Tasks) -> Tasks:
        thins = _thins(tasks)
        gains, sizes = [], []
        for modules in thins.values():
            total = sum(x.energy for x in modules.values()) or 1.0
            for x in modules.values():
                numbers = x.U.shape[0] + x.V.shape[0]
                gains.append(x.s**2 / total / numbers)
                sizes.append(np.full(x.s.size, numbers))
        gain, size = np.concatenate(gains), np.concatenate(sizes)
        order = np.argsort(-gain, kind="stable")
        whole = sum(b.size + a.size for modules in tasks.values() for b, a in modules.values())
        kept = order[np.cumsum(size[order]) <= fraction * whole]
        chosen = np.zeros(gain.size, bool)
        chosen[kept] = True
        counts = iter([int(x.sum()) for x in np.split(chosen, np.cumsum([g.size for g in gains]))])
        ranks = {(task, path): next(counts) for task, modules in thins.items() for path in modules}
        return _cut(thins, lambda task, path: ranks[task, path])

    return cut
