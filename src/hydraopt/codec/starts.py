"""Initial matrices A that a generator drew, and PyTorch's CPU generator as whole numbers.

``torch.manual_seed`` seeds a Mersenne Twister (MT19937, Matsumoto and Nishimura 1998) with the low
32 bits of the seed. A float32 of ``uniform_(-b, b)`` takes one output x and is ``b t / 2^23`` with
``t = x mod 2^24 - 2^23``, up to float32's rounding.

PEFT draws ``lora_A`` from PyTorch's CPU generator, and training usually changes it little. A task
with a start writes its right sides over A_0. A_0 itself costs only the place where it begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hydraopt.codec.matrices import Basis

BITS: Final = 24
"""Bits of an output that a float32 takes."""
_WORDS: Final = 624
_APART: Final = 1 << 15
"""Outputs between two states that are kept, so that going back costs no more than so many."""


class Generator:
    """Numbers of one seed, from any place on. Thread-safe.

    seed: 0 to 2^32 - 1.
    """

    def __init__(self, seed: int) -> None:
        self._twister = np.random.MT19937()
        self._twister.state = _seeded(seed)  # type: ignore[assignment]
        self._states = [self._twister.state]
        self._next = 0
        self._lock = Lock()

    def numbers(self, first: int, count: int) -> NDArray[np.int32]:
        """Return numbers ``first`` to ``first + count``, each from -2^23 to 2^23 - 1."""
        pieces = []
        with self._lock:
            known = min(first // _APART, len(self._states) - 1) * _APART
            if not known <= self._next <= first:
                self._twister.state = self._states[known // _APART]
                self._next = known
            while self._next < first:
                self._draw(first, output=False)
            while self._next < first + count:
                pieces.append(self._draw(first + count, output=True))
        raw = np.concatenate(pieces) if pieces else np.zeros(0, np.uint64)
        centred: NDArray[np.int32] = (raw & ((1 << BITS) - 1)).astype(np.int32)
        centred -= 1 << BITS - 1
        return centred

    def _draw(self, stop: int, output: bool) -> Any:
        """Draw outputs up to ``stop`` or to the next state that is kept."""
        stop = min((self._next // _APART + 1) * _APART, stop)
        raw: Any = self._twister.random_raw(stop - self._next, output=output)  # type: ignore[call-overload]
        self._next = stop
        if stop == len(self._states) * _APART:
            self._states.append(self._twister.state)
        return raw


def _seeded(seed: int) -> dict[str, object]:
    """Return the state after init_genrand(seed), before the first output."""
    key = np.zeros(_WORDS, np.uint32)
    word = seed
    for i in range(_WORDS):
        key[i] = word
        word = (1812433253 * (word ^ word >> 30) + i + 1) & 0xFFFFFFFF
    return {"bit_generator": "MT19937", "state": {"key": key, "pos": _WORDS}}


MOST_DRAWN: Final = 1 << 30
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
