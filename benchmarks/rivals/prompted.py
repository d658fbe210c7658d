"""The rows of the plan "prompted": rivals that get the prompts that hydraopt's refit gets."""

from __future__ import annotations

from benchmarks.rivals.base import Compressor
from benchmarks.rivals.loraquant import loraquant
from benchmarks.rivals.numbers import grouped
from benchmarks.rivals.stored import stored
from benchmarks.rivals.svd import cut_by_energy
from benchmarks.rivals.taught import Teach

__all__ = ["rows"]

_BITS = (4, 3, 2)
_FRACTIONS = (0.5, 0.25)
_RATIOS = (0.8, 0.5)


def rows(teach: Teach) -> list[Compressor]:
    """Groups of few bits, truncated SVDs in 4 bits, LoRAQuant."""
    return [
        *(stored("group, prompts", f"{bits} bit", grouped(bits), teach=teach) for bits in _BITS),
        *(
            stored(
                "svd+group, prompts", f"{100 * x:g} % 4 bit", grouped(4), cut_by_energy(x), teach
            )
            for x in _FRACTIONS
        ),
        *(loraquant(ratio, teach) for ratio in _RATIOS),
    ]
