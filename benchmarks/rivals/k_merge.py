"""K-Merge: a few adapters for all tasks, which come one by one in a random order."""

from __future__ import annotations

from benchmarks.rivals.base import Compressor
from benchmarks.rivals.bundles import combined
from benchmarks.rivals.heads import head_counts
from benchmarks.rivals.registry import SetShape

__all__ = ["k_merge", "rows"]


def k_merge(count: int) -> Compressor:
    """Return K-Merge with ``count`` adapters for all tasks."""
    return combined("k-merge", f"K={count}", shuffled=True, clusters=count)


def rows(shape: SetShape) -> list[Compressor]:
    """Return a row for each of :func:`head_counts` but the least and the largest."""
    return [k_merge(count) for count in head_counts(shape.tasks)[1:-1]]
