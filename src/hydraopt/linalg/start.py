"""Starts: initial matrices A that a generator drew, each stated by its place in the sequence.

PEFT draws ``lora_A`` from PyTorch's CPU generator, and training usually changes it little. A task
with a start writes its right sides over A_0. A_0 itself costs only the place where it begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np

from hydraopt.linalg.basis import Basis
from hydraopt.linalg.generator import BITS, Generator

__all__ = ["MOST_NUMBERS", "Drawn", "KnownStart"]

MOST_NUMBERS: Final = 1 << 30
"""Maximum count of numbers of a start; part of the format. To draw so many takes four seconds."""


@dataclass(frozen=True)
class KnownStart:
    """Start of a task: seed of the generator, below 2^32, and count of numbers that may be used."""

    seed: int
    numbers: int

    def initial(self, offset: int, r: int, n: int) -> Basis:
        """Return the basis (n, r) of an initial A (r, n) that begins at a number.

        Its vectors are ``t 2^-(23 + e)`` with e the least whole number for which 4^e >= n, so that
        they have lengths from 0.28 to 0.58 on average.
        """
        whole = _generator(self.seed).numbers(offset, r * n).reshape(r, n).T
        return Basis(np.ldexp(whole.astype(np.float64), -(BITS - 1 + _octaves(n))))


@lru_cache(64)
def _generator(seed: int) -> Generator:
    return Generator(seed)


def _octaves(n: int) -> int:
    """Return the least e with 4^e >= n."""
    return ((n - 1).bit_length() + 1) // 2


class Drawn(NamedTuple):
    """Initial A of a module: number of the sequence where it begins, and count of rows."""

    start: KnownStart
    offset: int
    rows: int

    def basis(self, n: int) -> Basis:
        """Return the basis (n, rows)."""
        return self.start.initial(self.offset, self.rows, n)
