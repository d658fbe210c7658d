"""Sizes of a merge against its errors: adapters are coded at several prices of a bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from hydraopt.merging.align import MergeSet
from hydraopt.merging.budget import MeanError
from hydraopt.merging.options import MergeOptions
from hydraopt.merging.outcome import Job
from hydraopt.merging.recipe import merge_recipe
from hydraopt.merging.search import ERROR_SLOPE
from hydraopt.merging.sizes import CodedSize, Sizes, passes_within_reach
from hydraopt.merging.solving import price_of
from hydraopt.merging.weights import Weights

__all__ = ["SizeGuess", "SizePoint", "size_curve", "size_guesses"]

ERRORS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
"""Relative errors for which a size is guessed."""

_POINTS: Final = 8
"""Usual number of sizes to code, with all forms and with the private form alone."""
_LEAST_POINTS: Final = 3
"""Fewer sizes say nothing of those between."""
_MORE_POINTS: Final = 4
"""Largest number of further sizes, where errors rise more slowly with the price than usual."""
_BEST_ERROR, _WORST_ERROR = 0.045, 0.55
"""Mean errors that the sizes span."""


@dataclass(frozen=True)
class SizePoint:
    """Result of coding all adapters at one price of a bit, with all forms and private alone.

    fraction: share of the fp16 bytes. error: mean over tasks of the relative Frobenius error.
    """

    price: float
    bytes: int
    fraction: float
    error: float
    worst_error: float
    forms: Mapping[str, int]
    private_bytes: int
    private_fraction: float
    private_error: float


@dataclass(frozen=True)
class SizeGuess:
    """Interpolated size at one mean error; None outside the sizes that were coded."""

    error: float
    bytes: int | None
    fraction: float | None
    private_bytes: int | None
    private_fraction: float | None


def size_curve(pieces: MergeSet, options: MergeOptions) -> tuple[tuple[SizePoint, ...], Weights]:
    """Return sizes by rising price, all forms and private alone, and the weights of a merge.

    The errors are those that a limit on the mean error compares.
    """
    job = Job.of(pieces, merge_recipe(options.weighing.name, MeanError.name, 0.0))
    alone = replace(options, forms=("private",))
    with Sizes(job, options) as every, Sizes(job, alone) as private:
        counting = every.weights.counting
        count = passes_within_reach(pieces.numbers, 2 * _POINTS) // 2
        if not (counting.totals > 0).any() or count < _LEAST_POINTS:
            return (), every.weights

        def tried(price: float) -> bool:
            pair = every.at(price), private.at(price)
            if pair[0] and pair[1]:
                made.append(_point(pieces, pair[0], pair[1]))
                made.sort(key=lambda point: point.price)
            return None not in pair

        made: list[SizePoint] = []
        price = price_of(MeanError(_BEST_ERROR), job, every.weights)
        step = (_WORST_ERROR / _BEST_ERROR) ** (1 / ERROR_SLOPE / (count - 1))
        left = count + _MORE_POINTS
        while tried(price) and made[0].error > _BEST_ERROR and (left := left - 1):
            price = made[0].price / step
        while made and made[-1].error < _WORST_ERROR and (left := left - 1) > 0:
            if not tried(made[-1].price * step):
                break
        return tuple(made), every.weights


def _point(pieces: MergeSet, every: CodedSize, private: CodedSize) -> SizePoint:
    return SizePoint(
        price=every.price,
        bytes=every.size,
        fraction=every.size / pieces.fp16_bytes,
        error=float(every.limited.mean()),
        worst_error=float(every.limited.max()),
        forms=dict(every.forms),
        private_bytes=private.size,
        private_fraction=private.size / pieces.fp16_bytes,
        private_error=float(private.limited.mean()),
    )


def size_guesses(curve: Sequence[SizePoint], fp16_bytes: int) -> tuple[SizeGuess, ...]:
    """Return sizes for round errors, all forms and private alone; None outside the points."""
    every = [(x.error, x.bytes) for x in curve]
    private = [(x.private_error, x.private_bytes) for x in curve]
    guesses = []
    for error in ERRORS:
        sizes = _size_at(every, error), _size_at(private, error)
        shares = [size / fp16_bytes if size else None for size in sizes]
        guesses.append(SizeGuess(error, sizes[0], shares[0], sizes[1], shares[1]))
    return tuple(guesses)


def _size_at(points: Sequence[tuple[float, int]], error: float) -> int | None:
    """Interpolate between (error, size) by rising error; None outside the points."""
    x = np.log([max(at, 1e-9) for at, _ in points])
    y = np.log([size for _, size in points])
    if not x.size or not x[0] <= np.log(error) <= x[-1]:
        return None
    return round(float(np.exp(np.interp(np.log(error), x, y))))
