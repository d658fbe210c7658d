"""NF4, each adapter by itself: blocks of 64 with their largest entry.

Dettmers et al., QLoRA, arXiv 2305.14314.
"""

from __future__ import annotations

from benchmarks.rivals.base import Compressor
from benchmarks.rivals.numbers import NF4
from benchmarks.rivals.registry import SetShape
from benchmarks.rivals.stored import stored

__all__ = ["normal_float", "rows"]


def normal_float() -> Compressor:
    """Return a compressor of A and B in NF4."""
    return stored("nf4", "", NF4)


def rows(shape: SetShape) -> list[Compressor]:
    """Return the only row."""
    return [normal_float()]
