"""Result of a method for one module, and checks of factors and weights.

Letters as in linalg.shapes: T tasks, a module with m outputs and n inputs, ranks r_t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from hydraopt.errors import AlignmentError, UsageError, explain
from hydraopt.linalg.shapes import Array, Factors
from hydraopt.values import real, shown

__all__ = [
    "Merged",
    "check_shapes",
    "comparable",
    "rank_for",
    "stacked_bases",
    "weights_for",
    "whole",
]


@dataclass(frozen=True)
class Merged:
    """Result of a method for one module: for task t, ``dW_t ~ scales[t] * factors[t].B @ .A``.

    factors: one per task; one adapter that serves several tasks is the same object, and factors
        that share an A hold the same array.
    scales: scale of each task, kept separately.
    """

    factors: tuple[Factors, ...]
    scales: tuple[float, ...]

    @classmethod
    def one_for_all(cls, factors: Factors, tasks: int) -> Merged:
        """Return one adapter that serves all tasks."""
        return cls((factors,) * tasks, (1.0,) * tasks)

    @property
    def finite(self) -> bool:
        """Return whether all its numbers, and all sums in its products, are finite in float64."""
        numbers = [*self.scales]
        with np.errstate(over="ignore", invalid="ignore"):
            for f in {id(f): f for f in self.factors}.values():
                largest = np.abs(f.B).max(initial=0.0) * np.abs(f.A).max(initial=0.0)
                numbers.append(float(largest * f.A.shape[0]))
        return bool(np.isfinite(numbers).all())

    def task(self, t: int) -> Factors:
        """Return the factors of task t with its scale inside B, as in every :class:`Factors`."""
        return Factors(self.factors[t].B * self.scales[t], self.factors[t].A)


def stacked_bases(factors: Sequence[Factors]) -> tuple[Array, Array]:
    """Return orthonormal bases that span all columns of the dW's, (m, p), and all rows, (n, q)."""
    left, _ = np.linalg.qr(np.concatenate([f.B for f in factors], axis=1))
    right, _ = np.linalg.qr(np.concatenate([f.A for f in factors], axis=0).T)
    return left, right


def check_shapes(factors: Sequence[Factors]) -> tuple[int, int]:
    """Return (m, n) of all the dW's.

    Raises UsageError for no factors and AlignmentError for different shapes.
    """
    if not factors:
        raise UsageError(explain("nothing to merge", got="no factors", do="Give at least one"))
    shapes = [(f.B.shape[0], f.A.shape[1]) for f in factors]
    if len(set(shapes)) > 1:
        raise AlignmentError(
            explain(
                "the tasks' changes of a module differ in shape",
                got=", ".join(f"{m} x {n}" for m, n in dict.fromkeys(shapes)),
                expected="one m x n",
            )
        )
    return shapes[0]


def weights_for(
    weights: Sequence[float] | None,
    tasks: int,
    default: float,
    *,
    positive: bool = False,
    what: str = "weights",
) -> Array:
    """Return the tasks' weights (T,), ``default`` each if None.

    what: name of the weights in messages. Raises UsageError for unusable weights.
    """
    if weights is None:
        return np.full(tasks, default)
    try:
        numbers = [real(weight) for weight in weights]
    except TypeError:
        numbers = [None]
    # None becomes NaN.
    values = np.array(numbers, np.float64)
    fits = len(numbers) == tasks and bool(np.isfinite(values).all())
    if not fits or (positive and not (values > 0).all()):
        raise UsageError(
            explain(
                f"the {what} do not fit the tasks",
                got=shown(weights),
                expected=f"{tasks} finite {'positive ' if positive else ''}numbers",
            )
        )
    return values


def comparable(weights: Array) -> Array:
    """Return positive weights (T,), scaled if products with squared norms would leave the range.

    The weights are only compared with each other. One below 1e-280 of the largest counts as that.
    """
    if weights.min(initial=1.0) >= 1e-100 and weights.max(initial=1.0) <= 1e100:
        return weights
    scaled: Array = np.ldexp(weights, -int(np.frexp(weights.max())[1]))
    return np.maximum(scaled, 1e-280)


def rank_for(rank: int | None, factors: Sequence[Factors]) -> int:
    """``rank``, or the largest of the tasks if None; raises UsageError for less than 1."""
    if rank is None:
        return max((f.A.shape[0] for f in factors), default=1)
    return whole("rank", rank)


def whole(name: str, value: object, least: int = 1, most: int = 10**9) -> int:
    """Return a whole number as Python's own; raises UsageError for others and those out of range.

    No module is larger than the default of ``most``, and every reader of a manifest can take it.
    """
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
    if number is None or not least <= number <= most:
        expected = f"a whole number, {least} to {most}"
        raise UsageError(explain(f"{name} is out of range", got=shown(value), expected=expected))
    return number
