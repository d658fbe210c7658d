"""Result of a coding pass, and the course that steers a pass to its target."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hydraopt.bundle.bounds import most_drawn
from hydraopt.bundle.harm import Harm
from hydraopt.coding.stream import most_numbers
from hydraopt.errors import NumericalError, explain
from hydraopt.files.aside import sizes_of
from hydraopt.linalg.shapes import Array
from hydraopt.merging.frozen import MiddlePrice
from hydraopt.merging.weights import Counting

__all__ = ["Course", "Draft", "Solution", "TaskTrial", "UnreadableError", "legs_of"]

_LEG = 4
"""Parts into which a pass with a course splits the remaining modules to correct its price."""
_FAR = 0.5
"""Largest correction of the logarithm of a price."""


@dataclass(frozen=True)
class Draft:
    """Result of one coding pass.

    shared, streams: coded bytes; those of a pass lie in a file.
    errors, energies (contents, items): squared norms of dW - dW~ and of dW, zero if a content lacks
        the item.
    forms: number of records of each form.
    price: price of a bit; the average one if it was corrected during the pass.
    weights (contents, items): weight of a unit of squared error in the pass.
    counting: conversion of errors into errors of tasks.
    middle: the price for a task of the middle size.
    numbers: count of numbers that the streams stand for.
    drawn: numbers that the starts of the tasks draw.
    strict: each stream must account for its numbers by its own bytes, without the free allowance of
        a file.
    """

    shared: bytes
    streams: Sequence[bytes]
    errors: Array
    energies: Array
    forms: dict[str, int]
    price: float
    weights: Array
    counting: Counting
    middle: MiddlePrice | None = None
    numbers: int = 0
    drawn: int = 0
    strict: bool = False

    @classmethod
    def empty(cls, weights: Array, counting: Counting) -> Draft:
        """Return a draft in which nothing is coded.

        Its errors and price take as many bytes in a manifest as those of a pass.
        """
        errors = np.random.default_rng(0).random(weights.shape)
        ones, middle = np.ones(weights.shape), MiddlePrice(1.23456e-08, 1.23456)
        streams = (b"",) * len(weights)
        return cls(b"", streams, errors, ones, {}, math.inf, weights, counting, middle)

    def with_distinct_streams(self) -> Draft:
        """Return this draft with a few bytes in each stream, so that no two become one in a file.

        Each stream then has an entry of its own in the header, as those of a pass have.
        """
        streams = tuple(b"%d" % content for content in range(len(self.streams)))
        return replace(self, streams=streams)

    @property
    def coded_bytes(self) -> int:
        return len(self.shared) + sum(sizes_of(self.streams))

    @property
    def readable(self) -> bool:
        """True if readers accept the draft.

        Readers refuse too many numbers per byte, as an attempt to fill the memory.
        """
        return self.numbers <= self.most_numbers and self.drawn <= self.most_drawn

    @property
    def most_numbers(self) -> int:
        """Largest count of numbers that readers accept for this many bytes."""
        return most_numbers(self.coded_bytes) - (most_numbers(0) if self.strict else 0)

    @property
    def most_drawn(self) -> int:
        """Return the same for the numbers of starts."""
        return most_drawn(self.coded_bytes) - (most_drawn(0) if self.strict else 0)

    def relative_errors(self) -> Array:
        """Relative error of each content, (contents,), everything that is coded counted."""
        return self.counting.errors(self.errors)


@dataclass(frozen=True)
class TaskTrial:
    """Result of a round for one task.

    size: bytes, including the task's share of the shared core.
    error: relative Frobenius error.
    likely: share of answers that change.
    kl: nats an answer.
    counted: harm as it is compared with the limit, see :func:`hydraopt.merging.limit.counted_harm`.
    """

    size: float
    error: float
    likely: float
    kl: float
    counted: float


@dataclass(frozen=True)
class Solution:
    """Draft that keeps a limit.

    passes: number of coding passes.
    harms: measured harm of the draft, by task.
    chosen: for a limit on harm, the result for each task.
    trials: for a limit on harm, all rounds of each task, by falling size.
    """

    draft: Draft
    passes: int
    harms: Mapping[str, Harm] = field(default_factory=dict)
    chosen: Mapping[str, TaskTrial] = field(default_factory=dict)
    trials: Mapping[str, tuple[TaskTrial, ...]] = field(default_factory=dict)


class UnreadableError(NumericalError):
    """A draft that readers would refuse: it has too few bytes, so a lower price mends it."""

    def __init__(self, draft: Draft, adapter: str | None = None) -> None:
        self.draft = draft
        size = draft.coded_bytes
        count, most, of = draft.numbers, draft.most_numbers, "numbers"
        if count <= most:
            count, most, of = draft.drawn, draft.most_drawn, "numbers of starts"
        super().__init__(
            explain(
                "the streams would stand for more numbers than a reader takes",
                adapter=adapter,
                got=f"{count:,} {of} in {size:,} bytes",
                expected=f"at most {most:,}",
                do="Ask for a larger size, or a smaller error or limit on harm, or use --lossless",
            )
        )


@dataclass(frozen=True)
class Course:
    """Target of a pass, and the data to steer it there.

    bits (modules,): bits that the planner expects of each module at the price at the start.
    slope: slope of log bits over log price.
    wanted: total bits that the pass should take.
    """

    bits: Array
    slope: float
    wanted: float

    def average(self, price: float, planned: float) -> float:
        """Return the one price at which the planner would have expected ``planned`` bits."""
        expected = float(self.bits.sum())
        if not (planned > 0 and expected > 0):
            return price
        return price * math.exp(math.log(planned / expected) / self.slope)

    def mended(self, price: float, done: int, planned: float, taken: float) -> float:
        """Return the price for the modules from ``done`` on, if those before took ``taken`` bits.

        planned: bits that the planner expected of these, at the prices that they really had.
        """
        rest = float(self.bits[done:].sum())
        if not (planned > 0 and rest > 0):
            return price
        room = max(self.wanted - taken, 1.0) / (taken / planned * rest)
        return price * math.exp(float(np.clip(math.log(room) / self.slope, -_FAR, _FAR)))


def legs_of(modules: int) -> Iterator[range]:
    """Yield long legs first and single modules last, whose misses are those of the pass."""
    start = 0
    while start < modules:
        stop = start + max((modules - start) // _LEG, 1)
        yield range(start, stop)
        start = stop
