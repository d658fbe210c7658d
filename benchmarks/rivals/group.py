"""Rounding each adapter by itself: A and B in groups of 32 with an fp16 scale."""

from __future__ import annotations

from benchmarks.rivals.base import Compressor
from benchmarks.rivals.numbers import grouped
from benchmarks.rivals.registry import SetShape
from benchmarks.rivals.stored import stored

__all__ = ["BITS", "rounding", "rows"]

BITS = (8, 4, 3, 2)


def rounding(bits: int) -> Compressor:
    """Return a compressor of A and B in groups of 32 with an fp16 scale."""
    return stored("group", f"{bits} bit", grouped(bits))


def rows(shape: SetShape) -> list[Compressor]:
    """Return a row for each number of bits."""
    return [rounding(bits) for bits in BITS]
