"""Types that all methods share: the small core of one module, and the result of a method.

Letters as in linalg.shapes: T tasks, a module with m outputs and n inputs, ranks r_t. Here
p <= min(m, sum r) and q <= min(n, sum r) are the widths of the small core.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hydraopt.errors import AlignmentError, UsageError, explain
from hydraopt.linalg.cutoff import rank_of, rounding
from hydraopt.linalg.shapes import Array, Factors
from hydraopt.linalg.svd import halved, in_range
from hydraopt.methods.options import check_option
from hydraopt.values import real, shown

__all__ = [
    "Merged",
    "SmallCore",
    "check_shapes",
    "comparable",
    "one_for_all",
    "rank_for",
    "small_core",
    "stacked_bases",
    "weights_for",
]


@dataclass(frozen=True)
class Merged:
    """Result of a method for one module: for task t, ``dW_t ~ scales[t] * factors[t].B @ .A``.

    factors: one per task; one adapter that serves several tasks is the same object, and factors
        that share an A hold the same array.
    scales: scale of each task, kept separately.
    added: relative Frobenius error of the last step, the refit of the method's own result to the
        requested rank; 0 where that result has this rank anyway.
    """

    factors: tuple[Factors, ...]
    scales: tuple[float, ...]
    added: float = 0.0

    @property
    def finite(self) -> bool:
        """Return whether all its numbers, and all sums in its products, are finite in float64."""
        numbers = [*self.scales, self.added]
        with np.errstate(over="ignore", invalid="ignore"):
            for f in {id(f): f for f in self.factors}.values():
                largest = np.abs(f.B).max(initial=0.0) * np.abs(f.A).max(initial=0.0)
                numbers.append(float(largest * f.A.shape[0]))
        return bool(np.isfinite(numbers).all())

    def task(self, t: int) -> Factors:
        """Return the factors of task t with its scale inside B, as every other :class:`Factors` has
        it."""
        return Factors(self.factors[t].B * self.scales[t], self.factors[t].A)


def one_for_all(factors: Factors, tasks: int, added: float = 0.0) -> Merged:
    """Return one adapter that serves all tasks."""
    return Merged((factors,) * tasks, (1.0,) * tasks, added)


@dataclass(frozen=True)
class SmallCore:
    """``dW_t = left C_t right^T``, exactly: left (m, p), right (n, q) with orthonormal columns.

    sides: ``C_t = B A`` for each task, B (p, r_t) and A (r_t, q). Inner products, norms and
    singular values of the dW's are those of the C_t. These take p q numbers each, T times what the
    sides do, so they are formed one by one and again each time.
    """

    left: Array
    right: Array
    sides: tuple[Factors, ...]

    def core(self, t: int) -> Array:
        """C_t, (p, q)."""
        return self.sides[t].B @ self.sides[t].A

    def cores(self) -> Iterator[Array]:
        """Yield all C_t, (p, q), one at a time."""
        return (side.B @ side.A for side in self.sides)

    def weighted(self, weights: Array) -> Array:
        """sum_t w_t C_t, (p, q); weights (T,)."""
        total: Array = np.zeros((self.left.shape[1], self.right.shape[1]))
        # A sum of products, not a product of stacks: opposite tasks leave exact zeros.
        for weight, core in zip(weights, self.cores(), strict=True):
            total += weight * core
        return total

    def lift(self, core: Array, rank: int | None = None) -> tuple[Factors, float]:
        """Return the factors of ``left core right^T``, and the relative error of cutting it to
        ``rank``.

        rank: parts at most; None keeps all that are not zero. B (m, k) and A (k, n) carry the roots
        of the singular values alike, k >= 1. Raises UsageError for a rank below 1.
        """
        limit = core.size if rank is None else rank_for(rank, ())
        u, s, vt = np.linalg.svd(in_range(core), full_matrices=False)
        size = max(self.left.shape[0], self.right.shape[0])
        sound = rank_of(s, rounding(size))
        keep = max(min(sound, limit), 1)
        # Near 1, by a power of two: squares of the values themselves may leave the range.
        near = np.ldexp(s, -int(np.frexp(s.max(initial=0.0))[1]))
        total = float(np.linalg.norm(near))
        added = float(np.linalg.norm(near[keep:sound])) / total if total > 0 else 0.0
        small = halved(u, s, vt, keep)
        return Factors(self.left @ small.B, small.A @ self.right.T), added


def small_core(factors: Sequence[Factors]) -> SmallCore:
    """Return the core of one module through a QR of the stacked factors; nothing of size m x n is
    formed.

    O((m + n) (sum r)^2). Any other factoring of the same dW's gives the same lifted results, to
    rounding. Raises UsageError for no factors, AlignmentError for dW's of different shapes.
    """
    check_shapes(factors)
    left, right = stacked_bases(factors)
    sides = tuple(Factors(left.T @ f.B, f.A @ right) for f in factors)
    return SmallCore(left, right, sides)


def stacked_bases(factors: Sequence[Factors]) -> tuple[Array, Array]:
    """Return orthonormal bases that span all columns of the dW's, (m, p), and all rows, (n, q)."""
    left, _ = np.linalg.qr(np.concatenate([f.B for f in factors], axis=1))
    right, _ = np.linalg.qr(np.concatenate([f.A for f in factors], axis=0).T)
    return left, right


def check_shapes(factors: Sequence[Factors]) -> tuple[int, int]:
    """Return (m, n) of all the dW's; errors as in :func:`small_core`."""
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
    """Return the tasks' weights (T,), ``default`` each if None; raises UsageError for unusable
    ones.

    what: they are, in the message.
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
    """Return the positive weights (T,) that are only compared with each other, as they stand if
    products of them with squared norms stay in range, else scaled so; one below 1e-280 of the
    largest counts as that."""
    if weights.min(initial=1.0) >= 1e-100 and weights.max(initial=1.0) <= 1e100:
        return weights
    scaled: Array = np.ldexp(weights, -int(np.frexp(weights.max())[1]))
    return np.maximum(scaled, 1e-280)


def rank_for(rank: int | None, factors: Sequence[Factors]) -> int:
    """``rank``, or the largest of the tasks if None; raises UsageError for less than 1."""
    if rank is None:
        return max((f.A.shape[0] for f in factors), default=1)
    return int(check_option("rank", rank))
