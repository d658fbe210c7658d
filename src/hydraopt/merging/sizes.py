"""Sizes of a job: each is coded as a merge codes it, and no file is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from hydraopt.engines.pool import Closing
from hydraopt.errors import BudgetError
from hydraopt.linalg.shapes import Array
from hydraopt.merging.budget import Size
from hydraopt.merging.draft import Draft, UnreadableError
from hydraopt.merging.outcome import Job
from hydraopt.merging.solving import SearchOptions, passes_of, weights_for
from hydraopt.merging.weights import Weights

__all__ = [
    "PASSES",
    "SIZES",
    "CodedSize",
    "Sizes",
    "coded_size",
    "coded_sizes",
    "passes_within_reach",
    "steps",
]

SIZES: Final = 7
"""Usual number of sizes of a curve."""
PASSES: Final = 3
"""Usual number of passes to meet one size."""
_MOST_NUMBERS: Final = 1_000_000_000
"""Numbers to code for one curve of sizes, all its passes together: minutes on one core."""
_FALLS: Final = 0.98
"""A smaller limit that leaves more than this share of the bytes has reached the smallest size."""


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


def coded_sizes(
    make: Callable[[Size], CodedSize], largest: float, smallest: float, count: int
) -> list[CodedSize]:
    """Return what ``make`` makes of ``count`` sizes between two, by falling size.

    Fewer where ``make`` has no smaller one, or little is left of the tasks. count: none below 2.
    """
    made: list[CodedSize] = []
    for limit in steps(largest, smallest, count) if count > 1 else ():
        try:
            one = make(Size(limit))
        except (BudgetError, UnreadableError):
            break
        mean = sum(one.errors.values()) / len(one.errors)
        if mean >= 1 or (made and one.size > _FALLS * made[-1].size):
            break
        made.append(one)
    return made


class Sizes(Closing):
    """Codes a job at prices of a bit; close it after use, as with a ``with`` block."""

    def __init__(self, job: Job, options: SearchOptions) -> None:
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
