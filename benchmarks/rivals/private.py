"""Each adapter by itself: rounding, truncated SVDs, and both. One file a task, one layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.rivals.base import (
    Compressor,
    Floats,
    Modules,
    Tasks,
    double,
    read_layout,
    write_layout,
)
from benchmarks.rivals.numbers import FP16, NF4, Code, grouped
from hydraopt.types import Thin, thin

__all__ = ["cut_by_energy", "cut_by_rank", "rounding", "stored", "svd"]

Cut = Callable[[Tasks], Tasks]


def stored(method: str, setting: str, code: Code, cut: Cut = lambda tasks: tasks) -> Compressor:
    """A compressor that writes what ``cut`` makes of the factors in a code of numbers: of each
    module the columns of B, then the rows of A."""

    def write(tasks: Tasks, folder: Path) -> None:
        layout: dict[str, list[tuple[str, int, int, int]]] = {}
        for task, modules in cut(tasks).items():
            vectors: list[Floats] = []
            layout[task] = []
            for path, (b, a) in modules.items():
                layout[task].append((path, b.shape[0], a.shape[1], a.shape[0]))
                vectors += [*b.T, *a]
            save_file(dict(code.encode(vectors)), str(folder / f"{task}.safetensors"))
        write_layout(folder, layout)

    def read(folder: Path, task: str) -> Modules:
        rows = read_layout(folder)[task]
        sizes = [size for _, m, n, r in rows for size in (*[m] * r, *[n] * r)]
        vectors = iter(code.decode(load_file(str(folder / f"{task}.safetensors")), sizes))
        found = {}
        for path, m, n, r in rows:
            b = np.array([next(vectors) for _ in range(r)], np.float32).reshape(r, m).T
            a = np.array([next(vectors) for _ in range(r)], np.float32).reshape(r, n)
            found[path] = np.ascontiguousarray(b), a
        return found

    return Compressor(method, setting, write, read)


def rounding(bits: int | None) -> Compressor:
    """A and B in groups of 32 with an fp16 scale; None: NF4, blocks of 64."""
    if bits is None:
        return stored("nf4", "", NF4)
    return stored("group", f"{bits} bit", grouped(bits))


def svd(cut: Cut, setting: str, bits: int | None = None) -> Compressor:
    """Truncated SVDs in fp16, or rounded in groups to ``bits``."""
    if bits is None:
        return stored("svd", setting, FP16, cut)
    return stored("svd+group", f"{setting} {bits} bit", grouped(bits), cut)


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
    """The best ``rank`` parts of every module."""
    return lambda tasks: _cut(_thins(tasks), lambda task, path: rank)


def cut_by_energy(fraction: float) -> Cut:
    """Parts by their energy, relative to the adapter's own, for a number stored: over all adapters
    and modules together, until ``fraction`` of the inputs' numbers is full."""

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
