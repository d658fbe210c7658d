"""The literature's merging methods that make one adapter of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.rivals.base import Compressor
from benchmarks.rivals.bundles import combined
from benchmarks.rivals.registry import SetShape

__all__ = ["ONE_FOR_ALL", "one_for_all", "rows"]

ONE_FOR_ALL: Sequence[str] = (
    "average", "task-arithmetic", "ties", "dare-linear", "dare-ties", "magnitude", "della",
    "breadcrumbs", "knots-ties", "core-ties", "tsv-m", "iso-c", "lora-lego", "peft-linear",
    "peft-ties", "peft-magnitude", "peft-svd",
)  # fmt: skip
_UNCUT = {"average", "task-arithmetic", "knots-ties", "core-ties", "tsv-m", "iso-c"}
"""These keep every part of a sum unless they are told to cut it."""


def one_for_all(method: str, rank: int) -> Compressor:
    """Return a method that makes one adapter of all, of about this rank, at its defaults.

    The result of some has the rank of all tasks together, as large as they are; it is cut to its
    best ``rank`` parts, which costs what these methods were not made for, and the setting says so.
    """
    cut: dict[str, Any] = {"rank": rank} if method in _UNCUT else {}
    return combined(method, f"cut to rank {rank}" if cut else "", **cut)


def rows(shape: SetShape) -> list[Compressor]:
    """Return a row for each method, at the rank of the shape."""
    return [one_for_all(name, shape.rank) for name in ONE_FOR_ALL]
