"""Sizes of a job at several prices of a bit: each is coded as a merge codes it; no file is written.

A merge that is asked for such a size makes the same parts, but for the last percent of the price.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from hydraopt.engines.pool import Closing
from hydraopt.linalg.shapes import Array
from hydraopt.merging.budget import Size
from hydraopt.merging.draft import Draft, UnreadableError
from hydraopt.merging.outcome import Job
from hydraopt.merging.solving import Options, guide_of, passes_of, weights_for
from hydraopt.merging.weights import Weights

__all__ = [
    "CodedSize",
    "Sizes",
    "coded_size",
    "coded_sizes",
    "passes_within_reach",
    "steps",
]

_SIZES: Final = 7
"""Usual number of sizes of a curve."""
_MOST_NUMBERS: Final = 1_000_000_000
"""Numbers to code for one curve of sizes, all its passes together: minutes on one core."""
_LEAST_CODED: Final = 0.1
"""Share of the coded bytes of the largest size that is left in the smallest one, at least."""
_FALLS: Final = 0.98
"""A higher price that leaves more than this share of the bytes has reached the smallest size."""


@dataclass(frozen=True)
class CodedSize:
    """One size of a job.

    price: of a bit. size (bytes): of the whole file. errors: by task, relative Frobenius error as
    the manifest would state it. limited: errors that a limit on the error compares, (tasks that are
    coded,). forms: number of records of each form.
    """

    price: float
    size: int
    errors: Mapping[str, float]
    limited: Array
    forms: Mapping[str, int]


def coded_size(job: Job, draft: Draft) -> CodedSize:
    """Return the size and the errors of a draft of the job."""
    manifest = job.manifest(draft)
    errors = {task.name: task.error for task in manifest.tasks}
    size = job.size(draft, manifest)
    return CodedSize(draft.price, size, errors, job.task_errors(draft), draft.forms)


def passes_within_reach(numbers: int, most: int) -> int:
    """Return the number of passes over so many numbers that a curve may take, up to ``most``."""
    return min(_MOST_NUMBERS // max(numbers, 1), most)


def steps(largest: float, smallest: float, count: int) -> list[int]:
    """Return ``count`` sizes in bytes at even steps of the logarithm, the largest first."""
    return [round(float(x)) for x in np.geomspace(largest, smallest, count)]


def coded_sizes(job: Job, options: Options, largest: float, smallest: float) -> Iterator[CodedSize]:
    """Yield sizes from about ``largest`` to about ``smallest`` bytes, by falling size.

    Fewer where they would take too many passes, none where even two would. The range ends where a
    higher price saves nothing, where the mean error reaches 1, or where readers would refuse what
    it makes. Raises BudgetError if nothing
    coded fits into the first one.
    """
    count = passes_within_reach(job.pieces.numbers, _SIZES)
    if count > 1:
        with Sizes(job, options) as sizes:
            yield from sizes.between(largest, smallest, count)


class Sizes(Closing):
    """Codes a job at prices of a bit; close it after use, as with a ``with`` block."""

    def __init__(self, job: Job, options: Options) -> None:
        self._job = job
        self._passes = passes_of(job, options)
        try:
            self.weights: Weights = weights_for(self._passes, job, options)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the workers."""
        self._passes.close()

    def at(self, price: float, stage: str = "coding") -> CodedSize | None:
        """Return the size at a price; None if readers would refuse it because it is too small."""
        weights = self.weights
        try:
            draft = self._passes.run(price, weights.whole, weights.counting, stage)
        except UnreadableError:
            return None
        return coded_size(self._job, draft)

    def between(self, largest: float, smallest: float, count: int) -> Iterator[CodedSize]:
        """Yield at most ``count`` sizes as :func:`coded_sizes` does."""
        guide, fixed = guide_of(self._passes, self._job, Size(round(largest)), self.weights)
        smallest = max(smallest, fixed + _LEAST_CODED * (largest - fixed))
        wanted, before, ratio = steps(largest, smallest, count), math.inf, 1.0
        # The first size is coded twice: small streams take more bytes than the planner expects, and
        # its first pass tells how many.
        for i, size in enumerate([wanted[0], *wanted]):
            price = guide.price(8 * (size - fixed) / ratio)
            made = self.at(price, f"coding size {max(i, 1)} of {count}")
            if made is None or made.size <= fixed or made.size > _FALLS * before:
                return
            if sum(made.errors.values()) >= len(made.errors):
                return  # worse than nothing: errors no longer follow the size
            if expected := guide.bits(price):
                ratio = 8 * (made.size - fixed) / expected
            if i:
                yield made
                before = made.size
