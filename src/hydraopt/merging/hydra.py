"""HydraOpt as published: one A for all tasks and M heads B, exact and by gradient.

scipy.cluster.vq.kmeans2 accepts points only, and no other distance.

Letters as in linalg.shapes: T tasks, a module with m outputs and n inputs, ranks r_t.

Ceritli et al., "HydraOpt: Navigating the Efficiency-Performance Trade-off of Adapter Merging",
EMNLP 2025, arXiv 2507.17706. The objective is the paper's idea as a sum of squares

    minimise  sum_t w_t |dW_t - g_t B'_c(t) A'|^2   over A' (R, n), M heads B' (m, R), c and g,

with M between 1 (a single merged adapter) and T (one head for each task). The paper lowers it by
gradient steps; here every step is the exact minimum over one half of the unknowns, so the
objective falls until the tasks no longer change heads. That is a local
minimum, as with k-means, hence the starts. With M = T it is the global one and takes no iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from hydraopt.codec import Array, Factors, in_range, thin
from hydraopt.errors import AlignmentError, UsageError, explain
from hydraopt.notes import real, shown


def far_apart(
    count: int,
    first: Array | int,
    lost: Callable[[int], Array],
    rng: np.random.Generator | None,
) -> list[int]:
    """Draw ``count`` different items, far apart as in k-means++.

    first: the first item, or (N,) the odds of it, N >= count. lost: is told the item just taken and
    gives (N,), how far each item is from the nearest of those taken, the odds of the next. rng:
    None takes the largest odds each time. Where no odds are left, the first item not taken is next.
    Source: Arthur and Vassilvitskii, "k-means++", SODA 2007.
    """
    taken: list[int] = []
    if isinstance(first, int):
        taken, odds = [first], lost(first)
    else:
        odds = first
    while len(taken) < count:
        odds = np.maximum(odds, 0.0)
        odds[taken] = 0.0
        if rng is not None and odds.sum() > 0:
            pick = int(rng.choice(len(odds), p=odds / odds.sum()))
        else:
            odds[taken] = -1.0
            pick = int(odds.argmax())
        taken.append(pick)
        odds = lost(pick)
    return taken


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


Labels = NDArray[np.int64]

_STILL = 1e-8  # of sum w |dW|^2: a smaller gain of new scales ends a descent
_MOST = 1000


@dataclass(frozen=True)
class HydraFit:
    """Fit ``dW_t ~ scales[t] * heads[assignment[t]] @ A``.

    A (R, n): orthonormal rows.
    heads: M of (m, R), numbered by the first task that uses each.
    assignment (T,): head of each task.
    scales (T,): of weighted mean square 1 over the tasks of a head, so a task alone with its head
        has 1.
    history: the objective over sum_t w_t |dW_t|^2 after each step; the last one is that of this
        fit.
    """

    A: Array
    heads: tuple[Array, ...]
    assignment: Labels
    scales: Array
    history: tuple[float, ...]

    @property
    def objective(self) -> float:
        """Weighted squared error of this fit, relative to that of leaving all tasks out."""
        return self.history[-1]

    def merged(self) -> Merged:
        """Return the factors of each task: all hold one A, and tasks of one head one object.

        A power of two goes from the heads to A, which is exact and keeps both in the range of fp16.
        """
        size = [float(np.linalg.norm(head)) for head in self.heads]
        typical = max(size) / np.sqrt(max(self.A.shape[0], 1)) if size else 0.0
        shift = int(np.rint(0.5 * np.log2(typical))) if typical > 0 else 0
        a = np.ldexp(self.A, shift)
        own = [Factors(np.ldexp(head, -shift), a) for head in self.heads]
        return Merged(tuple(own[c] for c in self.assignment), tuple(map(float, self.scales)))


def fit_exact(
    factors: Sequence[Factors],
    heads: int,
    rank: int,
    weights: Sequence[float] | None = None,
    starts: int = 4,
    seed: int = 0,
    scales: bool = True,
) -> HydraFit:
    """Return the best of several descents by exact steps.

    heads: M, 1 to T.
    rank: R; a core narrower than R gives fewer rows, without loss.
    weights: w_t, positive, default 1.
    scales: whether each task has its own g_t, which costs one number; otherwise all are 1.
    starts: number of descents, the first from the tasks that are farthest apart, the others from
        tasks drawn by the seed as in k-means++ (Arthur and Vassilvitskii, SODA 2007).

    The same input gives the same fit; the order of the tasks does not matter, up to rounding. A
    step costs O((sum r)^2 q + q^3) with q <= min(n, sum r). Raises UsageError for counts out of
    range.
    """
    check_shapes(factors)
    check_counts(heads, rank, len(factors))
    rank, starts = int(rank), whole("starts", starts, 1, 10**6)
    seed = whole("seed", seed, 0, 2**64 - 1)
    if not isinstance(scales, bool | np.bool_):
        raise UsageError(explain("scales is not true or false", got=shown(scales)))
    w = comparable(weights_for(weights, len(factors), 1.0, positive=True))
    order = _order(factors, w)
    problem, left, right = _problem([factors[t] for t in order], w[order], rank, scales)
    if heads == len(factors):
        best = problem.closed()
    else:
        generator = np.random.default_rng(seed)
        runs = [problem.descend(heads, generator if i else None) for i in range(starts)]
        best = min(runs, key=lambda run: run.history[-1])
    labels, g = np.empty_like(best.labels), np.empty_like(best.g)
    labels[order], g[order] = best.labels, best.g
    names = list(dict.fromkeys(labels.tolist()))
    return HydraFit(
        (right @ best.V).T,
        tuple(left @ best.heads[c] for c in names),
        np.array([names.index(c) for c in labels], np.int64),
        g,
        tuple(best.history),
    )


def hydra(
    factors: Sequence[Factors],
    heads: int | None = None,
    rank: int | None = None,
    weights: Sequence[float] | None = None,
    starts: int = 4,
    seed: int = 0,
    scales: bool = True,
) -> Merged:
    """:func:`fit_exact` as a method: M at most T (default T), R by default the largest rank."""
    check_shapes(factors)
    heads = len(factors) if heads is None else min(whole("heads", heads), len(factors))
    rank = rank_for(rank, factors)
    return fit_exact(factors, heads, rank, weights, starts, seed, scales).merged()


def check_counts(heads: int, rank: int, tasks: int) -> None:
    """Raise UsageError unless 1 <= heads <= tasks and rank >= 1."""
    whole("number of heads", heads, 1, tasks)
    whole("rank", rank)


def _order(factors: Sequence[Factors], w: Array) -> list[int]:
    """Return the tasks by what they are, so that starts do not depend on how they are listed."""
    keys = []
    for f, weight in zip(factors, w, strict=True):
        towards = sum(u * f.inner(other) for other, u in zip(factors, w, strict=True))
        keys.append((f"{weight * f.squared_norm():.6e}", f"{towards:.6e}"))
    return sorted(range(len(keys)), key=lambda t: keys[t])


def _problem(
    factors: Sequence[Factors], w: Array, rank: int, scales: bool
) -> tuple[_Problem, Array, Array]:
    """Return the problem in the small core, and the bases that lead back, left and right.

    The bases are (m, p) and (n, q).
    """
    thins = [thin(f.B, f.A) for f in factors]
    left, right = stacked_bases(factors)
    r = max(max(own.s.size for own in thins), 1)
    B = np.zeros((len(thins), left.shape[1], r))
    A = np.zeros((len(thins), r, right.shape[1]))
    for t, own in enumerate(thins):
        B[t, :, : own.s.size] = left.T @ (own.U * own.s)
        A[t, : own.s.size] = own.V.T @ right
    return _Problem(B, A, w, min(rank, right.shape[1]), scales), left, right


@dataclass
class _Run:
    V: Array
    heads: Array
    labels: Labels
    g: Array
    history: list[float]


@dataclass(frozen=True)
class _Problem:
    """dW_t = B_t A_t over the cores' bases: B (T, p, r), A (T, r, q), padded with zeros to one r.

    Rows of A_t and columns of B_t are orthogonal, those of A_t of length 1 or 0.
    w (T,): weights. rank: R <= q. scales: whether tasks have their own g_t.
    """

    B: Array
    A: Array
    w: Array
    rank: int
    scales: bool

    @cached_property
    def overlap(self) -> Array:
        """B_t^T B_u for every two tasks, (T, r, T, r)."""
        tasks, p, r = self.B.shape
        columns = self.B.transpose(0, 2, 1).reshape(tasks * r, p)
        products: Array = (columns @ columns.T).reshape(tasks, r, tasks, r)
        return products

    @cached_property
    def total(self) -> float:
        return float(self.w @ np.sum(self.B**2, axis=(1, 2)))

    def closed(self) -> _Run:
        """M = T: A' spans the top eigenvectors of sum w dW^T dW, and each head is dW A'^T."""
        tasks = len(self.w)
        labels, g = np.arange(tasks), np.ones(tasks)
        V, heads = self._fit(tasks, labels, g)
        return _Run(V, heads, labels, g, [self._objective(V, heads, labels, g)])

    def descend(self, heads: int, generator: np.random.Generator | None) -> _Run:
        """Alternate the two exact steps from a start; ends with the first kind."""
        labels, g = self._start(heads, generator)
        history: list[float] = []
        while True:
            V, H = self._fit(heads, labels, g)
            history.append(self._objective(V, H, labels, g))
            new_labels, new_g = self._assign(V, H)
            gained = history[-1] - self._objective(V, H, new_labels, new_g)
            still = np.array_equal(labels, new_labels) and gained <= _STILL
            if still or len(history) >= _MOST:
                labels, g, H = self._normalised(labels, g, H)
                return _Run(V, H, labels, g, history)
            labels, g = self._fill(V, H, new_labels, new_g)
            history.append(history[-1] - gained)

    def _fit(self, heads: int, labels: Labels, g: Array) -> tuple[Array, Array]:
        """Return the exact V (q, R) and heads (M, p, R) for given tasks of each head and scales.

        With s_c = sum w g^2 and M_c = sum w g C_t / s_c over the tasks of head c the objective is a
        constant plus sum_c s_c |M_c - H_c V^T|^2, least at the top eigenvectors V of
        sum_c s_c M_c^T M_c and H_c = M_c V.
        """
        tasks, r, q = self.A.shape
        mine = labels[None, :] == np.arange(heads)[:, None]
        s = mine @ (self.w * g**2)
        # (M, T): M_c = sum_t mix_ct C_t.
        mix = np.divide(
            mine * (self.w * g), s[:, None], out=np.zeros(mine.shape), where=s[:, None] > 0
        )
        weighed = self.overlap * ((s[:, None] * mix).T @ mix)[:, None, :, None]
        rows = self.A.reshape(tasks * r, q)
        gram = rows.T @ (weighed.reshape(tasks * r, -1) @ rows)
        _, vectors = np.linalg.eigh(in_range(gram))
        V: Array = np.ascontiguousarray(vectors[:, : -self.rank - 1 : -1])
        return V, np.tensordot(mix, self.B @ (self.A @ V), 1)

    def _gains(self, V: Array, H: Array) -> tuple[Array, Array, Array]:
        """Return (gain, g) of each task with each head, (T, M), and the upper bound |C_t V|^2."""
        tasks, heads = len(self.w), len(H)
        inside = self.B @ (self.A @ V)
        inner = inside.reshape(tasks, -1) @ H.reshape(heads, -1).T
        norms = np.sum(H**2, axis=(1, 2))[None, :]
        if self.scales:
            g = np.divide(inner, norms, out=np.ones_like(inner), where=norms > 0)
            gain = g * inner * (norms > 0)
        else:
            g, gain = np.ones_like(inner), 2 * inner - norms
        return gain, g, np.sum(inside**2, axis=(1, 2))

    def _assign(self, V: Array, H: Array) -> tuple[Labels, Array]:
        """Return the exact labels and scales for given V and heads.

        The label is the head that removes most of the error.
        """
        gain, g, _ = self._gains(V, H)
        labels = gain.argmax(axis=1)
        return labels, g[np.arange(len(labels)), labels]

    def _fill(self, V: Array, H: Array, labels: Labels, g: Array) -> tuple[Labels, Array]:
        """Give each head without tasks to the task that is served worst and does not stand alone.

        Its own head serves it as well as V permits, so the objective does not rise.
        """
        gain, _, most = self._gains(V, H)
        lost = self.w * (most - gain[np.arange(len(labels)), labels])
        labels, g = labels.copy(), g.copy()
        for c in range(len(H)):
            counts = np.bincount(labels, minlength=len(H))
            if counts[c] == 0:
                worst = int(np.where(counts[labels] > 1, lost, -np.inf).argmax())
                labels[worst], g[worst], lost[worst] = c, 1.0, -np.inf
        return labels, g

    def _objective(self, V: Array, H: Array, labels: Labels, g: Array) -> float:
        """Compute the error from the residuals; a difference of norms is blind to small errors."""
        along = self.A @ V
        outside = self.A - along @ V.T
        lost = np.sum(np.sum(self.B**2, axis=1) * np.sum(outside**2, axis=2), axis=1)
        lost = lost + np.sum((self.B @ along - g[:, None, None] * H[labels]) ** 2, axis=(1, 2))
        return float(self.w @ lost) / self.total if self.total > 0 else 0.0

    def _normalised(self, labels: Labels, g: Array, H: Array) -> tuple[Labels, Array, Array]:
        """Rescale each head to a weighted mean square scale of 1 over its tasks; products stay."""
        if not self.scales:
            return labels, g, H
        g, H = g.copy(), H.copy()
        for c in range(len(H)):
            own = np.flatnonzero(labels == c)
            size = float(np.sqrt(self.w[own] @ g[own] ** 2 / self.w[own].sum()))
            if size > 0:
                size *= -1.0 if self.w[own] @ g[own] < 0 else 1.0
                g[own] /= size
                H[c] *= size
        return labels, g, H

    def _start(self, heads: int, generator: np.random.Generator | None) -> tuple[Labels, Array]:
        """Return the tasks to build the first heads from, far apart by chance or by reach."""
        tasks, r, q = self.A.shape
        rows = self.A.reshape(tasks * r, q)
        gram = (self.overlap * (rows @ rows.T).reshape(self.overlap.shape)).sum(axis=(1, 3))
        norms = np.diag(gram)
        if self.scales:
            g = np.divide(gram, norms, out=np.ones_like(gram), where=norms > 0)
            gain = g * gram * (norms > 0)
        else:
            g, gain = np.ones_like(gram), 2 * gram - norms
        best: Array = np.full(tasks, -np.inf)

        def lost(pick: int) -> Array:
            np.maximum(best, gain[:, pick], out=best)
            left: Array = self.w * (norms - best)
            return left

        first = self.w * norms if generator is not None else self.w @ gain
        chosen = far_apart(heads, first, lost, generator)
        labels = gain[:, chosen].argmax(axis=1)
        labels[chosen] = np.arange(heads)
        return labels, g[np.arange(len(labels)), np.array(chosen)[labels]]
