"""Each adapter by itself in a code of numbers: one file a task, one layout for all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.rivals.base import (
    Compressor,
    Floats,
    Modules,
    Tasks,
    read_layout,
    write_layout,
)
from benchmarks.rivals.numbers import Code

__all__ = ["Cut", "stored"]

Cut = Callable[[Tasks], Tasks]


_Sizes = list[tuple[str, int, int, int]]
"""Of each module its path, m, n and r."""


def stored(
    method: str,
    setting: str,
    code: Code,
    cut: Cut = lambda tasks: tasks,
) -> Compressor:
    """Return a compressor that writes what ``cut`` makes of the factors in a code of numbers.

    Of each module it writes the columns of B, then the rows of A.
    """

    def write(tasks: Tasks, folder: Path) -> None:
        layout: dict[str, _Sizes] = {}
        for task, modules in cut(tasks).items():
            layout[task] = _sizes(modules)
            save_file(dict(code.encode(_vectors(modules))), str(folder / f"{task}.safetensors"))
        write_layout(folder, layout)

    def read(folder: Path, task: str) -> Modules:
        sizes: _Sizes = read_layout(folder)[task]
        arrays = load_file(str(folder / f"{task}.safetensors"))
        return _modules(sizes, code.decode(arrays, _lengths(sizes)))

    return Compressor(method, setting, write, read)


def _sizes(modules: Modules) -> _Sizes:
    return [(path, b.shape[0], a.shape[1], a.shape[0]) for path, (b, a) in modules.items()]


def _lengths(sizes: _Sizes) -> list[int]:
    return [size for _, m, n, r in sizes for size in (*[m] * r, *[n] * r)]


def _vectors(modules: Modules) -> list[Floats]:
    return [x for b, a in modules.values() for x in (*b.T, *a)]


def _modules(sizes: _Sizes, vectors: list[Floats]) -> dict[str, tuple[Floats, Floats]]:
    waiting = iter(vectors)
    found = {}
    for path, m, n, r in sizes:
        b = np.array([next(waiting) for _ in range(r)], np.float32).reshape(r, m).T
        a = np.array([next(waiting) for _ in range(r)], np.float32).reshape(r, n)
        found[path] = np.ascontiguousarray(b), a
    return found
