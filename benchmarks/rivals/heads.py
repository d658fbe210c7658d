"""HydraOpt as published: one A for all tasks and M heads, by exact steps; arXiv 2507.17706."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.rivals.base import Compressor
from benchmarks.rivals.bundles import combined
from benchmarks.rivals.registry import SetShape

__all__ = ["head_counts", "heads", "rows"]


def heads(count: int, rank: int, **options: Any) -> Compressor:
    """Return HydraOpt with ``count`` heads of ``rank``."""
    given: Mapping[str, Any] = {"heads": count, "rank": rank, **options}
    return combined("hydraopt", f"M={count} r={rank}", "HydraOpt", **given)


def head_counts(tasks: int) -> list[int]:
    """Return 1, T/8, T/4 and T."""
    return sorted({1, max(tasks // 8, 1), max(tasks // 4, 1), tasks})


def rows(shape: SetShape) -> list[Compressor]:
    """Return a row for each number of heads, at the rank of the shape and at twice that."""
    ranks = shape.rank, 2 * shape.rank
    return [heads(count, r) for count in head_counts(shape.tasks) for r in ranks]
