"""Sizes of a job: each is coded as a merge codes it, and no file is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hydraopt.engines.pool import Closing
from hydraopt.linalg.shapes import Array
from hydraopt.merging.draft import UnreadableError
from hydraopt.merging.options import MergeOptions
from hydraopt.merging.outcome import Job
from hydraopt.merging.solving import passes_of, weights_for
from hydraopt.merging.weights import Weights

__all__ = [
    "CodedSize",
    "Sizes",
    "passes_within_reach",
]

_MOST_NUMBERS: Final = 1_000_000_000
"""Numbers to code for one curve of sizes, all its passes together: minutes on one core."""


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


def passes_within_reach(numbers: int, most: int) -> int:
    """Return the number of passes over so many numbers that a curve may take, up to ``most``."""
    return min(_MOST_NUMBERS // max(numbers, 1), most)


class Sizes(Closing):
    """Codes a job at prices of a bit; close it after use, as with a ``with`` block."""

    def __init__(self, job: Job, options: MergeOptions) -> None:
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
        manifest = self._job.manifest(draft)
        errors = {task.name: task.error for task in manifest.tasks}
        size = self._job.size(draft, manifest)
        return CodedSize(draft.price, size, errors, self._job.task_errors(draft), draft.forms)
