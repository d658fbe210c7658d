"""Likeness of tasks in one module, and its summary over all modules.

The cosine of two dW's does not follow from their factors' cosines, and the spaces and parts of a
factor are not those of its dW.

Letters as in linalg.shapes. T' contents have the module; all results are (T', T') or (T',).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.adapters import Adapters, check_same_base, read_adapters
from hydraopt.bundle import Bundle
from hydraopt.codec import Array, CoreStore, FactorReader, Factors, ModuleCore, one_blas_thread
from hydraopt.errors import UsageError, explain
from hydraopt.merging import MergeSet, align, decoded_set
from hydraopt.notes import Note, listed
from hydraopt.progress import Progress, silent

NOTE: Final = Note(
    "product_factors",
    "modules ::w1 and ::w2 are factors of a product (LoHa, LoKr): cosines of A and B, parts and "
    "bytes are the factors' own, dW's are not compared, and |dW| of LoHa is an estimate",
)


def of_products(pieces: MergeSet) -> NDArray[np.bool_]:
    """Mark the contents that have factors of products; shape (contents,)."""
    marked = np.zeros(pieces.contents, np.bool_)
    for task in pieces.tasks:
        if task.content is not None:
            marked[task.content] |= any(pieces.modules[i].layout == "factor" for i in task.modules)
    return marked


MOST_VECTORS: Final = 1024
"""Singular vectors that are compared with all others at a time."""
_MOST_NAMED: Final = 8


@dataclass
class Watched:
    """Reader of factors that records the similarity of the factors as given.

    a, b: cosines of the A's and of the B's as vectors, (T', T'); NaN where ranks differ or a factor
    is zero. They depend on how a dW was factored, which is what makes them interesting: adapters
    that began from the same initial A keep it.
    """

    read: FactorReader
    a: Array = field(default_factory=lambda: np.zeros((0, 0)))
    b: Array = field(default_factory=lambda: np.zeros((0, 0)))

    def __call__(self) -> Iterator[tuple[int, Factors]]:
        factors = list(self.read())
        self.a = _cosines([x.A for _, x in factors])
        self.b = _cosines([x.B for _, x in factors])
        yield from factors


def _cosines(matrices: Sequence[Array]) -> Array:
    result = np.full((len(matrices), len(matrices)), np.nan)
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, matrix in enumerate(matrices):
        groups.setdefault(matrix.shape, []).append(i)
    for members in groups.values():
        flat = np.stack([matrices[i].ravel() for i in members])
        result[np.ix_(members, members)] = _normalised(flat @ flat.T)
    return result


def _normalised(gram: Array) -> Array:
    """Return cosines computed from inner products; NaN for zero vectors."""
    norms = np.sqrt(np.diag(gram).clip(0))
    scale = np.outer(norms, norms)
    result: Array = np.divide(gram, scale, out=np.full(gram.shape, np.nan), where=scale > 0)
    return result


@dataclass(frozen=True)
class Likeness:
    """Likeness of all pairs of tasks in one module.

    inputs, outputs (T', T'): share of the smaller row (column) space that lies in the other, that
        is the mean squared cosine of the principal angles.
    inner (T', T'): <dW_s, dW_t>.
    chance: mean of ``inputs`` and ``outputs`` for random spaces of these ranks.
    """

    inputs: Array
    outputs: Array
    inner: Array
    chance: tuple[float, float]

    @property
    def products(self) -> Array:
        """Cosines of the dW's; NaN for a dW of zero."""
        return _normalised(self.inner)


def likeness(core: ModuleCore, most: int = MOST_VECTORS) -> Likeness:
    """Compute all measures from the small core, for some tasks against all at a time.

    most: number of vectors that are compared with all others at a time. Nothing of size m x n, nor
    of the square of the sum of all ranks, is formed.
    """
    ranks = np.array([s.size for s in core.s])
    edges = np.cumsum([0, *ranks])
    s = np.concatenate(core.s)
    smaller = np.minimum.outer(ranks, ranks)
    larger = np.maximum.outer(ranks, ranks)
    inputs, outputs, inner = (np.zeros((ranks.size, ranks.size)) for _ in range(3))
    for first, last in blocks(ranks, most):
        a, b = edges[first], edges[last]
        left = (core.U[:, a:b].T @ core.U).astype(np.float64)
        right = (core.V[:, a:b].T @ core.V).astype(np.float64)
        rows = ranks[first:last]
        inputs[first:last] = _sums(right**2, rows, ranks)
        outputs[first:last] = _sums(left**2, rows, ranks)
        inner[first:last] = _sums(left * right * np.outer(s[a:b], s), rows, ranks)

    def shared(overlap: Array) -> Array:
        result: Array = np.divide(
            overlap, smaller, out=np.full(overlap.shape, np.nan), where=smaller > 0
        )
        return result

    def chance(length: int) -> float:
        return mean_between(np.where(smaller > 0, np.minimum(larger / length, 1), np.nan)) or 0.0

    return Likeness(shared(inputs), shared(outputs), inner, (chance(core.n), chance(core.m)))


def blocks(ranks: NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of tasks (first, last + 1) with at most ``most`` vectors, or a single task."""
    first = total = 0
    for i, rank in enumerate(ranks):
        if total + rank > most and i > first:
            yield first, i
            first, total = i, 0
        total += int(rank)
    if ranks.size:
        yield first, ranks.size


def _sums(x: Array, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Array:
    """Sum the blocks of ``x``, (blocks down, blocks across).

    rows, columns: number of rows and of columns of each block.
    """
    result = np.zeros((rows.size, columns.size))
    down, across = np.flatnonzero(rows), np.flatnonzero(columns)
    if down.size and across.size:
        # reduceat would take the next block's first number for a block that is empty.
        wide = np.add.reduceat(x, np.cumsum([0, *columns[across][:-1]]), axis=1)
        tall = np.add.reduceat(wide, np.cumsum([0, *rows[down][:-1]]), axis=0)
        result[np.ix_(down, across)] = tall
    return result


def mean_between(matrix: Array) -> float | None:
    """Return the mean over all pairs of tasks where it is defined; None if there is none."""
    values = matrix[np.triu_indices(matrix.shape[0], 1)]
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else None


@dataclass(frozen=True)
class TaskCosines:
    """Likeness of the tasks of a bundle.

    tasks: names, sorted.
    cosines (tasks, tasks): cosines between their dW's over all modules; NaN where a dW is zero or a
        dW of products.
    """

    tasks: tuple[str, ...]
    cosines: Array


def task_cosines(
    bundle: Bundle,
    adapters: Sequence[str | os.PathLike[str]],
    only: Collection[str],
    *,
    same_base: bool = False,
    alpha: float | None = None,
    progress: Progress | None = None,
) -> TaskCosines:
    """Compare tasks of a bundle that are coded.

    adapters: originals of tasks, which are compared. Without them, the tasks are compared as the
        bundle decodes.
    only: names of the tasks to compare.
    same_base, alpha: as for :func:`hydraopt.read_adapters`.

    Raises a HydraoptError for adapters or a bundle that cannot be read, and UsageError for
    originals of no task of the bundle.
    """
    coded = {x.name for x in bundle.manifest.tasks if x.content is not None and not x.lossless}
    names, report = coded & set(only), progress or silent
    loaded = _originals(adapters, bundle, same_base, alpha) if adapters else None
    if not (names if loaded is None else any(x.name in names for x in loaded)):
        return TaskCosines((), np.zeros((0, 0)))
    if loaded is None:
        pieces = decoded_set(bundle, names, modules_only=True)
    else:
        kept = [x for x in loaded if x.name in names]
        pieces = align(kept, check_same_base(kept, same_base), lossless=False)
    order = [task for task in pieces.tasks if task.content is not None and task.name in names]
    contents = np.array([task.content for task in order], np.int64)
    store, inner = CoreStore(list(pieces.readers)), np.zeros((pieces.contents, pieces.contents))
    with one_blas_thread():
        for index in range(len(store)):
            core = store.core(index)
            inner[np.ix_(core.contents, core.contents)] += likeness(core).inner
            report("comparing tasks", index + 1, len(store))
    apart = of_products(pieces)
    inner[apart] = inner[:, apart] = np.nan
    cosines = _normalised(inner)[np.ix_(contents, contents)]
    return TaskCosines(tuple(task.name for task in order), cosines)


def _originals(
    adapters: Sequence[str | os.PathLike[str]],
    bundle: Bundle,
    same_base: bool,
    alpha: float | None,
) -> Adapters:
    """Return the adapters of tasks of the bundle; UsageError if there are none."""
    loaded = read_adapters(adapters, same_base=same_base, alpha=alpha)
    kept = [x for x in loaded if x.name in bundle]
    if not kept:
        raise UsageError(
            explain(
                "none of the originals is a task of the bundle",
                got=listed([x.name for x in loaded], _MOST_NAMED),
                expected=listed(list(bundle), _MOST_NAMED),
            )
        )
    return Adapters(kept)


@dataclass(frozen=True)
class ModuleComparison:
    """Likeness of the tasks in one module (m, n). Likeness is None where it is not defined.

    tasks: names of the tasks that have the module.
    a_cosine, b_cosine, product_cosine: means over pairs of tasks, of A, B and dW.
    input_overlap, output_overlap: means over pairs, of the row and column spaces of dW;
        input_chance, output_chance: the same of random spaces.
    norm: Frobenius norm over all tasks.
    ranks, rank90, rank99: by content, all parts, and the parts that hold 90 and 99 % of the energy.
    spectrum: share of the energy in the k largest parts, k = 1..max rank, mean over contents.
    """

    path: str
    type: str
    kind: str
    m: int
    n: int
    tasks: tuple[str, ...]
    a_cosine: float | None
    b_cosine: float | None
    product_cosine: float | None
    input_overlap: float | None
    input_chance: float
    output_overlap: float | None
    output_chance: float
    norm: float
    ranks: tuple[int, ...]
    rank90: tuple[int, ...]
    rank99: tuple[int, ...]
    spectrum: tuple[float, ...]


@dataclass(frozen=True)
class TypeComparison:
    """Means over the modules of one type and shape, as in :class:`ModuleComparison`.

    modules: number of them. rank, rank90, rank99: means over modules and contents.
    """

    type: str
    m: int
    n: int
    modules: int
    a_cosine: float | None
    b_cosine: float | None
    product_cosine: float | None
    input_overlap: float | None
    output_overlap: float | None
    input_chance: float | None
    output_chance: float | None
    rank: float
    rank90: float
    rank99: float


def module_type(path: str) -> str:
    """Return the path with numbers as stars: modules of one kind in all layers have one type.

    >>> module_type("model.layers.12.self_attn.q_proj")
    'model.layers.*.self_attn.q_proj'
    """
    return re.sub(r"(?<![^.:_])\d+(?![^.:_])", "*", path)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [x for x in values if x is not None]
    return sum(known) / len(known) if known else None


def by_type(modules: Sequence[ModuleComparison]) -> list[TypeComparison]:
    """Combine the modules of each type and shape, in order of appearance."""
    groups: dict[tuple[str, int, int], list[ModuleComparison]] = {}
    for row in modules:
        groups.setdefault((row.type, row.m, row.n), []).append(row)
    return [
        TypeComparison(
            *key,
            len(rows),
            _mean(row.a_cosine for row in rows),
            _mean(row.b_cosine for row in rows),
            _mean(row.product_cosine for row in rows),
            _mean(row.input_overlap for row in rows),
            _mean(row.output_overlap for row in rows),
            _mean(row.input_chance for row in rows),
            _mean(row.output_chance for row in rows),
            _mean(x for row in rows for x in row.ranks) or 0.0,
            _mean(x for row in rows for x in row.rank90) or 0.0,
            _mean(x for row in rows for x in row.rank99) or 0.0,
        )
        for key, rows in groups.items()
    ]
