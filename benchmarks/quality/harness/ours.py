"""hydraopt's own bundles as rows beside the rivals: one run scores all on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.quality.sets import METHOD
from benchmarks.rivals.base import Compressor, Tasks
from benchmarks.rivals.bundles import BUNDLE, read_bundle
from hydraopt import merge
from hydraopt.adapters import Adapter

__all__ = ["ours"]


def ours(adapters: Sequence[Adapter], size: str) -> Compressor:
    """The bundle that ``hydraopt merge --size SIZE`` makes of these adapters."""

    def write(_: Tasks, folder: Path) -> None:
        merge(adapters, folder / BUNDLE, size=size)

    return Compressor(METHOD, size, write, read_bundle, of_package=True)
