"""Shared structure of one base model's adapters, and the size and error of a bundle of them.

The factors are read and compared; then all adapters are coded at several prices of a bit, as a
merge codes them. No file is written.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final

import numpy as np

from hydraopt.adapters import Adapter, check_same_base, read_adapters, traced
from hydraopt.codec import Array, CoreStore, one_blas_thread
from hydraopt.files import StrPath
from hydraopt.inspect.likeness import (
    NOTE,
    ModuleComparison,
    TypeComparison,
    Watched,
    by_type,
    likeness,
    mean_between,
    module_type,
    of_products,
)
from hydraopt.merging import (
    DEFAULT_MEASURE,
    ERROR_SLOPE,
    CodedSize,
    Engine,
    Job,
    MeanError,
    MergeOptions,
    MergeSet,
    Sizes,
    Weights,
    align,
    merge_recipe,
    passes_within_reach,
    price_of,
)
from hydraopt.notes import Note
from hydraopt.progress import Progress, silent

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


@dataclass(frozen=True)
class AdapterSummary:
    """Size and content of one adapter.

    norm: Frobenius norm of all its dW's. same_as: adapters of equal content.
    start_seed: seed that drew the initial A of ``traced_modules``; None if it was not found.
    """

    name: str
    format: str
    fp16_bytes: int
    dtype: str
    modules: int
    ranks: tuple[int, ...]
    norm: float
    same_as: tuple[str, ...]
    carried_tensors: int
    start_seed: int | None
    traced_modules: int


Cosines = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class AdapterCosines:
    """Cosines (tasks, tasks) of the whole adapters' A, B and dW; None where not defined."""

    tasks: tuple[str, ...]
    a: Cosines
    b: Cosines
    products: Cosines


@dataclass(frozen=True)
class AdaptersReport:
    """Likeness of adapters, energy against rank, and size against error."""

    SCHEMA: ClassVar[str] = "hydraopt.inspect.adapters/1"
    base_model: str | None
    fp16_bytes: int
    measure: str
    tasks: tuple[AdapterSummary, ...]
    likeness: AdapterCosines
    types: tuple[TypeComparison, ...]
    modules: tuple[ModuleComparison, ...]
    curve: tuple[SizePoint, ...]
    guesses: tuple[SizeGuess, ...]
    notes: tuple[Note, ...]


def inspect_adapters(
    adapters: StrPath | Iterable[StrPath],
    *,
    same_base: bool = False,
    alpha: float | None = None,
    skip_unreadable: bool = False,
    measure: str = DEFAULT_MEASURE,
    workers: int | Engine | None = None,
    progress: Progress | None = None,
) -> AdaptersReport:
    """Compare adapters, and code them at several sizes.

    adapters, same_base, alpha, workers: as for :func:`hydraopt.merge`.
    skip_unreadable: as for :func:`hydraopt.read_adapters`.
    measure: that of the merges whose sizes are estimated.
    Raises a HydraoptError for what cannot be merged. docs/concepts.md explains each number.
    """
    loaded = read_adapters(
        adapters, same_base=same_base, alpha=alpha, skip_unreadable=skip_unreadable
    )
    report = progress or silent
    given = traced(loaded, report)
    pieces = align(given, check_same_base(loaded, same_base), lossless=False)
    watched = [Watched(read) for read in pieces.readers]
    store = CoreStore(watched)
    with one_blas_thread():
        modules, matrices, energies = _compare(pieces, watched, store, report)
    options = MergeOptions(measure=measure, workers=workers, progress=progress)
    curve, weights = size_curve(pieces, options)
    squares = energies * weights.counting.shares
    norms = [float(x) for x in np.sqrt(squares.sum(axis=0))]
    modules = [replace(row, norm=norm) for row, norm in zip(modules, norms, strict=True)]
    return AdaptersReport(
        pieces.base_model,
        pieces.fp16_bytes,
        measure,
        _tasks(pieces, given, squares),
        _cosines(pieces, matrices),
        tuple(by_type(modules)),
        tuple(modules),
        curve,
        size_guesses(curve, pieces.fp16_bytes),
        (*loaded.notes, *pieces.notes, *_notes(pieces, curve, bool(squares.any()))),
    )


def _notes(pieces: MergeSet, curve: Sequence[SizePoint], changing: bool) -> Iterator[Note]:
    """Yield what the numbers leave out. changing: whether the adapters change anything."""
    if of_products(pieces).any():
        yield NOTE
    if changing and not curve:
        text = (
            f"no size is estimated: {pieces.numbers:,} numbers are too many to be coded several "
            "times; hydraopt merge --error makes a bundle of one error"
        )
        yield Note("no_curve", text)


@dataclass
class _Matrices:
    """Sums over modules, (contents, contents): cosines of factors with their counts, and <.,.>."""

    a: Array
    b: Array
    a_count: Array
    b_count: Array
    inner: Array


def _compare(
    pieces: MergeSet, watched: Sequence[Watched], store: CoreStore, report: Progress
) -> tuple[list[ModuleComparison], _Matrices, Array]:
    """Return rows of modules, likeness of the whole adapters, and squared norms.

    The norms are those of the contents in the modules, (contents, modules).
    """
    size = (pieces.contents, pieces.contents)
    total = _Matrices(*(np.zeros(size) for _ in range(5)))
    energies = np.zeros((pieces.contents, len(store)))
    names = _names(pieces)
    rows: list[ModuleComparison] = []
    for index, module in enumerate(pieces.modules):
        core = store.core(index)
        alike, given = likeness(core), watched[index]
        product = module.layout == "factor"
        here = np.ix_(core.contents, core.contents)
        for sums, counts, cosines in (
            (total.a, total.a_count, given.a),
            (total.b, total.b_count, given.b),
        ):
            sums[here] += np.nan_to_num(cosines)
            counts[here] += np.isfinite(cosines)
        total.inner[here] += alike.inner
        energies[core.contents, index] = [float(s @ s) for s in core.s]
        spectra = [s**2 for s in core.s]
        rows.append(
            ModuleComparison(
                path=module.path,
                type=module_type(module.path),
                kind=module.kind,
                m=module.m,
                n=module.n,
                tasks=tuple(name for c in core.contents for name in names[c]),
                a_cosine=mean_between(given.a),
                b_cosine=mean_between(given.b),
                product_cosine=None if product else mean_between(alike.products),
                input_overlap=None if product else mean_between(alike.inputs),
                input_chance=alike.chance[0],
                output_overlap=None if product else mean_between(alike.outputs),
                output_chance=alike.chance[1],
                norm=0.0,  # the caller sets it
                ranks=tuple(int(s.size) for s in core.s),
                rank90=tuple(_rank_for(0.90, x) for x in spectra),
                rank99=tuple(_rank_for(0.99, x) for x in spectra),
                spectrum=_mean_cumulated(spectra),
            )
        )
        report("comparing", index + 1, len(store))
    apart = of_products(pieces)
    total.inner[apart] = total.inner[:, apart] = np.nan
    return rows, total, energies


def _rank_for(share: float, energy: Array) -> int:
    """Return the smallest k whose k largest parts hold ``share`` of the energy; 0 for nothing."""
    if energy.size == 0:
        return 0
    return int(np.searchsorted(np.cumsum(energy), share * energy.sum() * (1 - 1e-12))) + 1


def _mean_cumulated(spectra: Sequence[Array]) -> tuple[float, ...]:
    """Return the share of the energy in the k largest parts, k = 1..max r.

    It is a mean over tasks that have any.
    """
    real = [x for x in spectra if x.size]
    length = max((x.size for x in real), default=0)
    total = np.zeros(length)
    for x in real:
        share = np.cumsum(x) / x.sum()
        total += np.concatenate([share, np.ones(length - x.size)])
    return tuple(float(x) for x in total / max(len(real), 1))


def _names(pieces: MergeSet) -> list[list[str]]:
    """Return the task names of each content."""
    names: list[list[str]] = [[] for _ in range(pieces.contents)]
    for task in pieces.tasks:
        if task.content is not None:
            names[task.content].append(task.name)
    return names


def _tasks(
    pieces: MergeSet, loaded: Sequence[Adapter], squares: Array
) -> tuple[AdapterSummary, ...]:
    adapters = {adapter.name: adapter for adapter in loaded}
    drawn = {
        name: [x.initial for x in adapter.modules.values() if x.initial is not None]
        for name, adapter in adapters.items()
    }
    names = _names(pieces)
    return tuple(
        AdapterSummary(
            name=task.name,
            format=task.format,
            fp16_bytes=2 * task.numbers,
            dtype=task.dtype,
            modules=len(task.modules),
            ranks=tuple(sorted({x.r for x in adapters[task.name].modules.values()})),
            norm=0.0 if task.content is None else float(np.sqrt(squares[task.content].sum())),
            same_as=()
            if task.content is None
            else tuple(name for name in names[task.content] if name != task.name),
            carried_tensors=len(carried),
            start_seed=next((x.start.seed for x in drawn[task.name]), None),
            traced_modules=len(drawn[task.name]),
        )
        for task, carried in zip(pieces.tasks, pieces.carried, strict=True)
    )


def _cosines(pieces: MergeSet, total: _Matrices) -> AdapterCosines:
    """Return cosines between whole adapters; None where they are not defined."""
    coded = [task for task in pieces.tasks if task.content is not None]
    order = np.array([task.content for task in coded], np.int64)
    norms = np.sqrt(np.diag(total.inner).clip(0))

    def plain(sums: Array, scale: Array) -> Cosines:
        with np.errstate(invalid="ignore", divide="ignore"):
            picked = (sums / scale)[np.ix_(order, order)]
        return tuple(tuple(x if math.isfinite(x) else None for x in row) for row in picked.tolist())

    return AdapterCosines(
        tuple(task.name for task in coded),
        plain(total.a, total.a_count),
        plain(total.b, total.b_count),
        plain(total.inner, np.outer(norms, norms)),
    )
