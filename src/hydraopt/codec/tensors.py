"""Plan and encode dense tensors: a head, an embedding, a norm.

Everything here is of one matrix (N, k) at a price of a bit; :mod:`hydraopt.codec.tensors` says
what becomes of tensors.

A tensor of several tasks is coded as a matrix (N, k) each (hydraopt.codec.records): the numbers
themselves in steps, or a few parts and the rest in steps, or some rows only; as what it is, or as
what is not common to the tasks. The step follows from the price alone: where a bit more takes away
as much cost as its bits, at the quantiser's own slope, a step squared is ``price / (LAMBDA w)``.
Everything else is chosen by the least ``cost + price * bits``, cost being w times the squared
error.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.codec.costs import FIRST_CLASS, LAST_CLASS, PART_BITS, noise_of, rate_of
from hydraopt.codec.matrices import Array, symmetric_inverse
from hydraopt.codec.records import (
    MOST_OFFSET,
    STEP_GRID,
    DenseRecord,
    PartsRecord,
    Rest,
    quantise_rest,
    step_of,
)
from hydraopt.codec.sides import Way, quantise_side
from hydraopt.codec.stream import LAMBDA
from hydraopt.codec.tables import exponents, power, spread_of

_UNSEEN: Final = 0.25
"""Steps below which all numbers of a row round to zero; such rows are left out if many."""
_FEW: Final = 0.7
"""Largest share of non-zero rows at which rows are named."""
_LEAST: Final = 4096, 16
"""Minimum count of numbers, and of columns, of a matrix that is searched for parts."""
_WIDEST: Final = 4096
"""Maximum count of columns of a matrix searched for parts: (columns, columns) is decomposed."""
_SAVES: Final = 0.98
"""Share of the cost without parts below which parts are coded, by the estimate."""


@functools.cache
def tables() -> tuple[Array, Array, Array]:
    """Return log2 of spreads in steps, and bits per number and log of the error left at each."""
    classes = np.arange(LAST_CLASS + 1)
    noise = noise_of(classes)
    return np.log2(spread_of(classes)), rate_of(classes), np.log2(noise / (1 + noise))


def spent(squares: Array, rows: int, step: float) -> tuple[float, float]:
    """Estimate the bits of columns (k,) of ``rows`` numbers each, and the squared error left.

    squares: squared norms of the columns.
    """
    spreads, rates, left = tables()
    at = np.log2(np.maximum(np.sqrt(squares / max(rows, 1)) / step, 1e-9))
    bits = rows * float(np.interp(at, spreads, rates).sum()) + 3.0 * squares.size
    return bits, float(squares @ 2.0 ** np.interp(at, spreads, left))


def rows_of(x: Array, step: float) -> NDArray[np.int64] | None:
    """Return the rows that are worth naming, or None if most are."""
    rows = np.flatnonzero(np.abs(x).max(axis=1, initial=0) > _UNSEEN * step)
    return rows if rows.size <= _FEW * x.shape[0] else None


def _part_classes(
    s: Array, rest: float, shape: tuple[int, int], price: float, weight: float, step: float
) -> NDArray[np.int64]:
    """Return spread classes of parts with singular values ``s``.

    If there is a rest, of squared norm ``rest``, their rounding is coded with it, which costs less
    than leaving it as an error.
    """
    rows, columns = shape
    mended = min(1.0, LAMBDA / (2 * math.log(2)) * step**2 * rows * columns / max(rest, 1e-300))
    classes = np.arange(FIRST_CLASS, LAST_CLASS + 1)
    cost = weight * mended * 2 * noise_of(classes)[None, :] * (s**2)[:, None]
    total = cost + price * (rows + columns) * rate_of(classes)[None, :]
    chosen: NDArray[np.int64] = classes[total.argmin(axis=1)]
    return chosen


def _parts_that_pay(
    s: Array, shape: tuple[int, int], price: float, weight: float, step: float
) -> int:
    """Return how many parts, of falling singular values ``s``, cost less than they save."""
    rows, columns = shape
    left = np.append(np.cumsum((s**2)[::-1])[::-1], 0.0)
    most = int(math.log2(max(s.size // 4, 1)))
    costs = {}
    for k in sorted({0, *(round(2 ** (i / 2)) for i in range(2 * most + 1))}):
        rest, bits = float(left[k]), 0.0
        if k:
            classes = _part_classes(s[:k], rest, shape, price, weight, step)
            rest += float((s[:k] ** 2) @ (2 * noise_of(classes)))
            bits = float((rows + columns) * rate_of(classes).sum()) + PART_BITS * k
        more, error = spent(np.full(columns, rest / columns), rows, step)
        costs[k] = weight * error + price * (bits + more)
    best = min(costs, key=costs.__getitem__)
    return best if costs[best] < _SAVES * costs[0] else 0


def plan_parts(
    x: Array, price: float, weight: float, step: float
) -> tuple[Array, Array, int, NDArray[np.int64]] | None:
    """Plan the parts of a matrix that pay for themselves beside the rest; None if none do.

    Returns the singular values of the matrix, falling, its right vectors, the number of parts, and
    their spread classes.
    """
    rows, columns = x.shape
    if x.size < _LEAST[0] or not _LEAST[1] <= columns <= _WIDEST:
        return None
    if rows_of(x, step) is not None:
        return None  # Few rows take less than their parts, which are as long as all rows.
    values, vectors = np.linalg.eigh(x.T @ x)
    s = np.sqrt(np.maximum(values[::-1], 0))
    k = _parts_that_pay(s, (rows, columns), price, weight, step)
    if k == 0 or s[k - 1] <= 0:
        return None
    left = float((s[k:] ** 2).sum())
    return s, vectors[:, ::-1], k, _part_classes(s[:k], left, x.shape, price, weight, step)


def coded_parts(x: Array, price: float, weight: float, step: float) -> PartsRecord | None:
    """Return the rounded parts of a matrix that pay for themselves."""
    plan = plan_parts(x, price, weight, step)
    if plan is None:
        return None
    rows, columns = x.shape
    _, vectors, k, classes = plan
    lengths = spread_of(classes)
    right = quantise_side(vectors[:, :k] * lengths * math.sqrt(columns), Way.EXPLICIT, None)
    some = np.any(right.values != 0, axis=0)
    right, lengths = right.keep(some), lengths[some]
    gram = right.values.T @ right.values
    ideal = (x @ right.values) @ symmetric_inverse(gram)
    norms = np.linalg.norm(ideal, axis=0)
    grid = exponents(norms / (lengths * math.sqrt(rows)))
    return PartsRecord(quantise_side(ideal / power(grid), Way.EXPLICIT, None), right, grid)


MatrixReader = Callable[[int], Array]
"""Reader of the matrix (N, k), float64, of the i-th task that has the tensor, anew at each call.
If the reader of a bundle has a reference, it returns the difference from it."""


GivenBack = Callable[[Array], Array]
"""Reader's version of a decoded matrix (N, k), relative to its reference.
A reader adds its reference, if it has one, and rounds to the tensor's dtype; then the reference
is subtracted again."""


@dataclass(frozen=True)
class Given:
    """Properties of the readers of a tensor.

    common: record that its tasks share already, from a stream; None for nothing. If not ``free``,
        nothing more is shared.
    free: whether nothing is shared yet, and something may be.
    back: see :data:`GivenBack`; without it numbers are given back as they are decoded.
    needed: whether a task cannot do without the tensor, so that its largest number never rounds to
        zero, whatever the price.
    """

    common: DenseRecord | None = None
    free: bool = False
    back: GivenBack | None = None
    needed: bool = False


@dataclass(frozen=True)
class SharedTensor:
    """Data shared by the tasks of a tensor.

    common: rounded record; None for nothing, or if it is given.
    values (N, k): the shared values that readers have.
    members: tasks that are coded against it.
    back, needed: as in :class:`Given`.
    """

    common: Rest | None
    values: Array
    members: frozenset[int]
    back: GivenBack | None = None
    needed: bool = False


NUMBERS: Final = 1 << 22
"""Approximate count of numbers of a tensor's tasks encoded at a time; at least one task."""
_RECORD_BITS: Final = 24.0
_FINEST: Final = 2.0**-18
"""A step is at least this share of the largest number: the finest spread class, and a margin."""
_GONE: Final = 4.0
"""Coarsest step in units of the largest number; all numbers round to zero."""
_KEPT: Final = 0.5
"""Coarsest step in the same units of a tensor that is needed: its largest numbers do not round to
zero. The relative error of a small head is then 0.8 at most."""
_SAMPLE: Final = 1 << 16, 1 << 24
"""Count of numbers of each tensor, and of all, that are compared to find similar tensors."""


@dataclass(frozen=True)
class EncodedTensor:
    """Tensor of some tasks, ready to be written.

    common: what all tasks share, None for nothing. records: of each of these, in their order.
    energies, errors: squared norms of the matrices, and of what rounding left, that of readers to
    the tensor's dtype as well.
    """

    common: Rest | None
    records: tuple[DenseRecord, ...]
    energies: tuple[float, ...]
    errors: tuple[float, ...]


def step_exponent(price: float, weight: float, largest: float, coarsest: float = _GONE) -> int:
    """Return the exponent of the step at which a bit is worth its price.

    largest: |number|. coarsest: the largest step, in units of ``largest``.
    """
    step = math.sqrt(price / (LAMBDA * weight)) if weight > 0 else math.inf
    step = min(max(step, largest * _FINEST), coarsest * largest if largest > 0 else 1.0)
    return round(STEP_GRID * math.log2(max(step, 1e-60)))


def _offsets(x: Array, step: float) -> NDArray[np.int64] | None:
    """Return offsets, in steps, of columns that lie on one side of zero; None if not worth it."""
    means = x.mean(axis=0)
    squares = np.einsum("nk,nk->k", x, x)
    without = np.maximum(squares - x.shape[0] * means**2, 0)
    saved = spent(squares, x.shape[0], step)[0] - spent(without, x.shape[0], step)[0]
    offsets: NDArray[np.int64] = np.round(means / step).astype(np.int64)
    most = int(np.abs(offsets).max(initial=0))
    costs = float(np.log2(1.0 + np.abs(offsets)).sum()) * 2 + 2 * means.size
    return offsets if saved > costs and most <= MOST_OFFSET else None


def _encode(
    x: Array, price: float, weight: float, common: bool, coarsest: float = _GONE
) -> DenseRecord:
    """Encode one matrix, whole or as parts and a rest."""
    exponent = step_exponent(price, weight, float(np.abs(x).max(initial=0)), coarsest)
    parts = coded_parts(x, price, weight, step_of(exponent))
    if parts is not None:
        factors = parts.factors
        x = x - factors.B @ factors.A
        exponent = step_exponent(price, weight, float(np.abs(x).max(initial=0)))
    rows = rows_of(x, step_of(exponent))
    kept = x if rows is None else x[rows]
    rest: Rest | None = None
    if kept.size:
        rest = quantise_rest(kept, exponent, rows, _offsets(kept, step_of(exponent)))
        rest = None if rest.is_zero else rest
    return DenseRecord(parts, rest, common)


def _alike(samples: Array, step: float) -> list[int]:
    """Return the tensors that gain most from coding as differences from one of them; [] for none.

    samples: (tensors, numbers), the same numbers of each tensor.
    """
    products = samples @ samples.T
    squares = products.diagonal()
    alone = _sample_bits(squares, samples.shape[1], step)
    apart = np.maximum(squares[:, None] + squares - 2 * products, 0.0)
    gains = alone[:, None] - _sample_bits(apart, samples.shape[1], step)
    np.fill_diagonal(gains, alone)
    gain = np.maximum(gains, 0.0).sum(axis=0) - alone
    gain[(gains > 0).sum(axis=0) < 2] = 0.0
    seed = int(gain.argmax())
    return np.flatnonzero(gains[:, seed] > 0).tolist() if gain[seed] > 0 else []


def _sample_bits(squares: Array, numbers: int, step: float) -> Array:
    """Estimate the bits of so many numbers with these sums of squares, (...)."""
    spreads, rates, _ = tables()
    at = np.log2(np.maximum(np.sqrt(squares / numbers) / step, 1e-9))
    return np.asarray(numbers * np.interp(at, spreads, rates))


def _shared(
    read: MatrixReader, weights: Sequence[float], price: float, shape: tuple[int, int]
) -> tuple[Array | None, list[int], float]:
    """Return the matrix worth sharing, the tasks coded against it, and the sum of their weights.

    The matrix is None if sharing does not pay.
    """
    nothing: tuple[None, list[int], float] = (None, [], 0.0)
    if len(weights) < 2:
        return nothing
    numbers = shape[0] * shape[1]
    most = min(_SAMPLE[0], _SAMPLE[1] // len(weights) + 1)
    some: slice | NDArray[np.int64] = slice(None)
    if numbers > most:
        some = np.unique(np.random.default_rng(0).integers(0, numbers, most))
    samples = np.stack([read(i).ravel()[some] for i in range(len(weights))])
    largest = float(np.abs(samples).max(initial=0))
    middle = float(np.median(np.asarray(weights)))
    members = _alike(samples, step_of(step_exponent(price, middle, largest)))
    total = float(np.sum([weights[i] for i in members]))
    if not (members and total > 0):
        return nothing
    mean = np.zeros(shape)
    for i in members:
        mean += read(i) * (weights[i] / total)
    return mean, members, total


def _common(
    read: MatrixReader, weights: Sequence[float], price: float, shape: tuple[int, int]
) -> tuple[Rest | None, list[int]]:
    """Return the shared part of the tasks, rounded, and the tasks coded against it."""
    mean, members, total = _shared(read, weights, price, shape)
    if mean is None:
        return None, []
    exponent = step_exponent(price, total, float(np.abs(mean).max(initial=0)))
    rest = quantise_rest(mean, exponent, None, _offsets(mean, step_of(exponent)))
    return (None, []) if rest.is_zero else (rest, members)


def _closer(read: MatrixReader, shared: Array, weights: Sequence[float], price: float) -> list[int]:
    """Return the tensors that take fewer bits as differences from ``shared``, by the estimate."""
    return [
        i
        for i, weight in enumerate(weights)
        if _estimate(read(i) - shared, price, weight) < _estimate(read(i), price, weight)
    ]


def blocks_of(shape: tuple[int, int], tasks: int) -> list[range]:
    """Return the tasks of a tensor (N, k) in blocks that are encoded one after the other."""
    each = max(NUMBERS // max(shape[0] * shape[1], 1), 1)
    return [range(start, min(start + each, tasks)) for start in range(0, tasks, each)]


def share_tensor(
    read: MatrixReader,
    shape: tuple[int, int],
    weights: Sequence[float],
    price: float,
    given: Given | None = None,
) -> SharedTensor:
    """Compute the data shared by all tasks of a tensor; deterministic.

    No more than a few matrices are in memory.

    read: see :data:`MatrixReader`.
    shape: (N, k).
    weights: weight of a unit of squared error, for each task.
    price: cost of error that a bit is worth.
    given: properties of the readers; by default nothing is shared yet.
    """
    known = given or Given(free=True)
    shared: Array = np.broadcast_to(np.zeros(1), shape)
    common, members = None, list[int]()
    if known.free:
        common, members = _common(read, weights, price, shape)
        if common is not None:
            shared = DenseRecord(rest=common).values(shared)
    elif known.common is not None:
        shared = known.common.values(shared)
        members = _closer(read, shared, weights, price)
    return SharedTensor(common, shared, frozenset(members), known.back, known.needed)


def encode_tensor(
    read: MatrixReader,
    weights: Sequence[float],
    price: float,
    shared: SharedTensor,
    tasks: Iterable[int],
) -> EncodedTensor:
    """Encode a tensor of some of its tasks, each by itself.

    Arguments as of :func:`share_tensor`; ``shared`` is its result.
    """
    nothing = np.broadcast_to(np.zeros(1), shared.values.shape)
    records: list[DenseRecord] = []
    energies, errors = [], []
    for i in tasks:
        x, member = read(i), i in shared.members
        # A difference from what is shared may round to zero, because a reader has the rest.
        coarsest = _KEPT if shared.needed and not member else _GONE
        own = _encode(x - shared.values if member else x, price, weights[i], member, coarsest)
        reference = shared.values if own.common else nothing
        records.append(own)
        energies.append(float(np.sum(x**2)))
        decoded = own.values(reference)
        given_back = decoded if shared.back is None else shared.back(decoded)
        errors.append(float(np.sum((x - given_back) ** 2)))
    return EncodedTensor(shared.common, tuple(records), tuple(energies), tuple(errors))


def estimate_tensor(
    read: MatrixReader,
    shape: tuple[int, int],
    weights: Sequence[float],
    price: float,
    given: Given | None = None,
) -> float:
    """Estimate the bits of all tasks and of the shared data; nothing is rounded."""
    known = given or Given(free=True)
    shared: Array | None = None
    bits, members = 0.0, list[int]()
    if known.free:
        shared, members, total = _shared(read, weights, price, shape)
        bits = 0.0 if shared is None else _estimate(shared, price, total)
    elif known.common is not None:
        shared = known.common.values(np.broadcast_to(np.zeros(1), shape))
    for i, weight in enumerate(weights):
        x = read(i)
        if shared is not None and i in members:
            bits += _estimate(x - shared, price, weight)
            continue
        alone = _estimate(x, price, weight, _KEPT if known.needed else _GONE)
        if shared is not None and not known.free:
            alone = min(alone, _estimate(x - shared, price, weight))
        bits += alone
    return bits


def _estimate(x: Array, price: float, weight: float, coarsest: float = _GONE) -> float:
    """Estimate the bits of one matrix."""
    step = step_of(step_exponent(price, weight, float(np.abs(x).max(initial=0)), coarsest))
    plan = plan_parts(x, price, weight, step)
    if plan is not None:
        s, _, k, classes = plan
        squares = np.full(x.shape[1], float((s[k:] ** 2).sum()) / x.shape[1])
        bits = float(sum(x.shape) * rate_of(classes).sum()) + PART_BITS * k
        return _RECORD_BITS + bits + spent(squares, x.shape[0], step)[0]
    rows = rows_of(x, step)
    kept = x if rows is None else x[rows]
    if not kept.size:
        return _RECORD_BITS
    names = 0.0 if rows is None else rows.size * (2 + math.log2(x.shape[0] / rows.size))
    offsets = _offsets(kept, step)
    less = kept if offsets is None else kept - offsets * step
    squares = np.einsum("nk,nk->k", less, less)
    return _RECORD_BITS + names + spent(squares, kept.shape[0], step)[0]
