"""Truncated SVDs of each adapter, their factors rounded to 4 bits in groups."""

from __future__ import annotations

from benchmarks.rivals.base import Compressor
from benchmarks.rivals.numbers import grouped
from benchmarks.rivals.registry import SetShape
from benchmarks.rivals.stored import stored
from benchmarks.rivals.svd import FRACTIONS, cut_by_energy

__all__ = ["rounded_svd", "rows"]

_BITS = 4


def rounded_svd(fraction: float) -> Compressor:
    """Return a compressor of ``fraction`` of the numbers, by energy, in groups of 4 bits."""
    setting = f"{100 * fraction:g} % {_BITS} bit"
    return stored("svd+group", setting, grouped(_BITS), cut_by_energy(fraction))


def rows(shape: SetShape) -> list[Compressor]:
    """Return a row for each fraction but the least."""
    return [rounded_svd(x) for x in FRACTIONS[:4]]
