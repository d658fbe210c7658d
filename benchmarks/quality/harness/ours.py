"""hydraopt's own bundles as rows beside the rivals: one run scores all on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.quality.compressors.base import Compressor, Modules, Tasks
from hydraopt import merge, open_bundle
from hydraopt.adapters import Adapter

__all__ = ["METHOD", "ours"]

METHOD = "hydraopt"
"""What tables call it; the paper's method is "HydraOpt" there."""
_FILE = "all.hydra.safetensors"


def ours(adapters: Sequence[Adapter], size: str) -> Compressor:
    """The bundle that ``hydraopt merge --size SIZE`` makes of these adapters."""

    def write(_: Tasks, folder: Path) -> None:
        merge(adapters, folder / _FILE, size=size)

    def read(folder: Path, task: str) -> Modules:
        factors = open_bundle(folder / _FILE)[task].factors()
        return {p: (f.B.astype(np.float32), f.A.astype(np.float32)) for p, f in factors.items()}

    return Compressor(METHOD, size, write, read)
