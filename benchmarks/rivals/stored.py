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
