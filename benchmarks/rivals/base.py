"""Define a compressor: it writes factors of many tasks into a folder, and reads one task back.

``read`` gets the folder and nothing else, so what comes back is what is on disk; the bytes are
those of the files. Factors: by task and module path (B (m, r) with the scale inside, A (r, n)).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from hydraopt.adapters import Adapter
from hydraopt.codec import Factors, relative_error

__all__ = [
    "Compressor",
    "Floats",
    "Modules",
    "Packed",
    "ReadBack",
    "Tasks",
    "double",
    "folder_bytes",
    "pack",
    "read_layout",
    "relative_errors",
    "tasks_of",
    "write_layout",
]

METHOD = "hydraopt"
"""Name of ours in tables; the paper's method is "HydraOpt" there."""
DEFAULT = "default"
"""Name of a merge without a limit."""
WITH_PROMPTS = ", prompts"
"""Ends the name of a method that learns from prompts."""
Floats = NDArray[np.float32]
Modules = Mapping[str, tuple[Floats, Floats]]
Tasks = Mapping[str, Modules]


@dataclass(frozen=True)
class Compressor:
    """method, setting: what tables call it. write: all tasks into an empty folder. read: one task
    from the folder."""

    method: str
    setting: str
    write: Callable[[Tasks, Path], None]
    read: Callable[[Path, str], Modules]

    @property
    def label(self) -> str:
        """Its key in results, and the name of its folder."""
        name = f"{self.method} {self.setting}".strip()
        return name.replace("%", "pct").replace(" ", "_").replace("/", "-")


@dataclass(frozen=True)
class Packed:
    """What a compressor left on disk. write_seconds: of writing."""

    bytes: int
    factors: Tasks
    write_seconds: float


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def pack(compressor: Compressor, tasks: Tasks, folder: Path) -> Packed:
    """Write into ``folder``, made if it is not there and else empty, and read back."""
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    compressor.write(tasks, folder)
    written = time.monotonic()
    factors = {task: compressor.read(folder, task) for task in tasks}
    return Packed(folder_bytes(folder), factors, written - started)


class ReadBack(Mapping[str, Modules]):
    """What a row left on disk, read a task at a time: all rows at once would fill the memory."""

    def __init__(self, row: Compressor, folder: Path, names: Sequence[str]) -> None:
        self._row, self._folder, self._names = row, folder, names

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return folder_bytes(self._folder)

    def __getitem__(self, name: str) -> Modules:
        if name not in self._names:
            raise KeyError(name)
        return self._row.read(self._folder, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def tasks_of(adapters: Sequence[Adapter]) -> dict[str, dict[str, tuple[Floats, Floats]]]:
    """Return the factors of adapters, scale inside B, as compressors take them."""
    return {a.name: {path: x.factors() for path, x in a.modules.items()} for a in adapters}


def double(pair: tuple[Floats, Floats]) -> Factors:
    """Return the factors in float64."""
    return Factors(pair[0].astype(np.float64), pair[1].astype(np.float64))


def relative_errors(tasks: Tasks, rebuilt: Tasks) -> dict[str, float]:
    """Return the relative Frobenius error of each task's dW over all its modules."""
    errors = {}
    for task, modules in tasks.items():
        wrong = total = 0.0
        for path, pair in modules.items():
            true, found = double(pair), double(rebuilt[task][path])
            size = true.squared_norm()
            wrong += size * relative_error(true, found) ** 2
            total += size
        errors[task] = float(np.sqrt(wrong / total)) if total else 0.0
    return errors


def write_layout(folder: Path, layout: Any) -> None:
    """Write what a set's files hold, once for all: names and shapes as compressed JSON."""
    text = json.dumps(layout, separators=(",", ":")).encode()
    (folder / "layout").write_bytes(zstandard.ZstdCompressor(19).compress(text))


def read_layout(folder: Path) -> Any:
    """Return what :func:`write_layout` wrote."""
    return json.loads(zstandard.ZstdDecompressor().decompress((folder / "layout").read_bytes()))
