"""Shared structure of one base model's adapters, and the size and error of a bundle of them.

The factors are read and compared; then all adapters are coded at several prices of a bit, as a
merge codes them. No file is written.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from threadpoolctl import threadpool_limits

from hydraopt.adapters import Adapter, check_same_base, read_adapters
from hydraopt.coding.forms import FORMS
from hydraopt.compress.core import CoreStore
from hydraopt.compress.measure import measure_named
from hydraopt.engines.engine import Engine
from hydraopt.inspect.likeness import Watched, likeness, mean_between
from hydraopt.inspect.products import NOTE, of_products
from hydraopt.inspect.savings import savings_at
from hydraopt.inspect.summary import by_type, extremes, module_type
from hydraopt.linalg.shapes import Array
from hydraopt.merging.align import MergeSet, align
from hydraopt.merging.budget import MeanError
from hydraopt.merging.merge import DEFAULT_MEASURE
from hydraopt.merging.outcome import Job
from hydraopt.merging.recipe import MergeRecipe
from hydraopt.merging.search import ERROR_SLOPE
from hydraopt.merging.sizes import CodedSize, Sizes, passes_within_reach
from hydraopt.merging.solving import Options, price_of
from hydraopt.merging.weights import Weights
from hydraopt.progress import Progress, silent

__all__ = ["ERRORS", "SCHEMA", "inspect_adapters"]

SCHEMA = "hydraopt.inspect.adapters/1"

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
_REFERENCE = 0.05
"""Savings by module are given at the price that takes this share of the fp16 bytes."""

StrPath = str | os.PathLike[str]


def inspect_adapters(
    adapters: StrPath | Iterable[StrPath],
    *,
    same_base: bool = False,
    alpha: float | None = None,
    skip_unreadable: bool = False,
    measure: str = DEFAULT_MEASURE,
    workers: int | Engine | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return likeness, energy against rank, and size against error; ready for JSON.

    adapters, same_base, alpha, workers: as for :func:`hydraopt.merge`.
    skip_unreadable: as for :func:`hydraopt.read_adapters`.
    measure: that of the merges whose sizes are estimated.
    Raises a HydraoptError for what cannot be merged. docs/concepts.md explains each number.
    """
    loaded = read_adapters(
        adapters, same_base=same_base, alpha=alpha, skip_unreadable=skip_unreadable
    )
    pieces = align(loaded, check_same_base(loaded, same_base), lossless=False)
    report = progress or silent
    watched = [Watched(read) for read in pieces.readers]
    store = CoreStore(watched)
    with threadpool_limits(1, user_api="blas"):
        modules, matrices, energies = _compare(pieces, watched, store, report)
    options = Options(measure_named(measure), workers=workers, progress=progress)
    curve, weights = _curve(pieces, options)
    reference = _reference(curve)
    squares = energies * weights.counting.shares
    savings: list[dict[str, float] | None] = [None] * len(modules)
    if reference is not None:
        price = float(reference["price"])
        with threadpool_limits(1, user_api="blas"):
            savings = [*savings_at(store, weights.whole, price, options.measure, report)]
    for index, (row, saving) in enumerate(zip(modules, savings, strict=True)):
        row["norm"] = float(np.sqrt(squares[:, index].sum()))
        row["sharing"] = saving
    return {
        "schema": SCHEMA,
        "base_model": pieces.base_model,
        "fp16_bytes": pieces.fp16_bytes,
        "measure": measure,
        "tasks": _tasks(pieces, loaded, squares),
        "likeness": _matrices(pieces, matrices),
        "energy": _energy_curve(modules),
        "types": by_type(modules),
        "extremes": extremes(modules),
        "modules": modules,
        "curve": curve,
        "guesses": _guesses(curve, pieces.fp16_bytes),
        "reference": reference,
        "notes": [*loaded.notes, *pieces.notes, *_notes(pieces, curve, bool(squares.any()))],
    }


def _notes(pieces: MergeSet, curve: Sequence[Any], changing: bool) -> Iterator[str]:
    """Yield what the numbers leave out. changing: whether the adapters change anything."""
    if of_products(pieces).any():
        yield NOTE
    if changing and not curve:
        yield (
            f"no size is estimated: {pieces.numbers:,} numbers are too many to be coded several "
            "times; hydraopt merge --error makes a bundle of one error"
        )


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
) -> tuple[list[dict[str, Any]], _Matrices, Array]:
    """Return rows of modules, likeness of the whole adapters, and squared norms.

    The norms are those of the contents in the modules, (contents, modules).
    """
    size = (pieces.contents, pieces.contents)
    total = _Matrices(*(np.zeros(size) for _ in range(5)))
    energies = np.zeros((pieces.contents, len(store)))
    names = _names(pieces)
    rows: list[dict[str, Any]] = []
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
            {
                "path": module.path,
                "type": module_type(module.path),
                "kind": module.kind,
                "m": module.m,
                "n": module.n,
                "tasks": [name for c in core.contents for name in names[c]],
                "a_cosine": mean_between(given.a),
                "b_cosine": mean_between(given.b),
                "product_cosine": None if product else mean_between(alike.products),
                "input_overlap": None if product else mean_between(alike.inputs),
                "input_chance": alike.chance[0],
                "output_overlap": None if product else mean_between(alike.outputs),
                "output_chance": alike.chance[1],
                "norm": 0.0,  # to be filled in, as "sharing"
                "ranks": [int(s.size) for s in core.s],
                "rank90": [_rank_for(0.90, x) for x in spectra],
                "rank99": [_rank_for(0.99, x) for x in spectra],
                "spectrum": _mean_cumulated(spectra),
            }
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


def _mean_cumulated(spectra: Sequence[Array]) -> list[float]:
    """Return the share of the energy in the k largest parts, k = 1..max r.

    It is a mean over tasks that have any.
    """
    real = [x for x in spectra if x.size]
    length = max((x.size for x in real), default=0)
    total = np.zeros(length)
    for x in real:
        share = np.cumsum(x) / x.sum()
        total += np.concatenate([share, np.ones(length - x.size)])
    return [float(x) for x in total / max(len(real), 1)]


def _energy_curve(modules: Sequence[dict[str, Any]]) -> list[float]:
    """Return the share of the energy in the k largest parts of each module, mean over modules."""
    spectra = [row["spectrum"] for row in modules if row["spectrum"]]
    length = max(map(len, spectra), default=0)
    full = [x + [1.0] * (length - len(x)) for x in spectra]
    return [float(x) for x in np.mean(full, axis=0)] if full else []


def _names(pieces: MergeSet) -> list[list[str]]:
    """Return the task names of each content."""
    names: list[list[str]] = [[] for _ in range(pieces.contents)]
    for task in pieces.tasks:
        if task.content is not None:
            names[task.content].append(task.name)
    return names


def _tasks(pieces: MergeSet, loaded: Sequence[Adapter], squares: Array) -> list[dict[str, Any]]:
    formats = {adapter.name: adapter for adapter in loaded}
    names = _names(pieces)
    return [
        {
            "name": task.name,
            "format": task.format,
            "fp16_bytes": 2 * task.numbers,
            "dtype": task.dtype,
            "modules": len(task.modules),
            "ranks": sorted({x.r for x in formats[task.name].modules.values()}),
            "norm": 0.0 if task.content is None else float(np.sqrt(squares[task.content].sum())),
            "same_as": []
            if task.content is None
            else [name for name in names[task.content] if name != task.name],
            "carried_tensors": len(carried),
        }
        for task, carried in zip(pieces.tasks, pieces.carried, strict=True)
    ]


def _matrices(pieces: MergeSet, total: _Matrices) -> dict[str, Any]:
    """Return cosines between whole adapters; null where they are not defined."""
    coded = [task for task in pieces.tasks if task.content is not None]
    order = np.array([task.content for task in coded], np.int64)
    norms = np.sqrt(np.diag(total.inner).clip(0))
    scale = np.outer(norms, norms)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = {
            "a": total.a / total.a_count,
            "b": total.b / total.b_count,
            "products": total.inner / scale,
        }
    matrices: dict[str, Any] = {"tasks": [task.name for task in coded]}
    for name, matrix in means.items():
        picked = matrix[np.ix_(order, order)]
        matrices[name] = [
            [float(x) if np.isfinite(x) else None for x in row] for row in picked.tolist()
        ]
    return matrices


def _curve(pieces: MergeSet, options: Options) -> tuple[list[dict[str, Any]], Weights]:
    """Return sizes by rising price, all forms and private alone, and the weights of a merge.

    The errors are those that a limit on the mean error compares.
    """
    job = Job.of(pieces, MergeRecipe(options.measure.name, MeanError.name, 0.0, tuple(FORMS)))
    alone = dataclasses.replace(options, forms=("private",))
    with Sizes(job, options) as every, Sizes(job, alone) as private:
        counting = every.weights.counting
        count = passes_within_reach(pieces.numbers, 2 * _POINTS) // 2
        if not (counting.totals > 0).any() or count < _LEAST_POINTS:
            return [], every.weights

        def tried(price: float) -> bool:
            pair = every.at(price), private.at(price)
            if pair[0] and pair[1]:
                made.append(_point(pieces, pair[0], pair[1]))
                made.sort(key=lambda point: float(point["price"]))
            return None not in pair

        made: list[dict[str, Any]] = []
        price = price_of(MeanError(_BEST_ERROR), job, every.weights)
        step = (_WORST_ERROR / _BEST_ERROR) ** (1 / ERROR_SLOPE / (count - 1))
        left = count + _MORE_POINTS
        while tried(price) and made[0]["error"] > _BEST_ERROR and (left := left - 1):
            price = made[0]["price"] / step
        while made and made[-1]["error"] < _WORST_ERROR and (left := left - 1) > 0:
            if not tried(made[-1]["price"] * step):
                break
        sizes = [math.log(point["fraction"]) for point in made]
        if made and sizes[-1] < math.log(_REFERENCE) < sizes[0]:
            prices = [math.log(point["price"]) for point in made]
            tried(math.exp(np.interp(math.log(_REFERENCE), sizes[::-1], prices[::-1])))
        return made, every.weights


def _point(pieces: MergeSet, every: CodedSize, private: CodedSize) -> dict[str, Any]:
    return {
        "price": every.price,
        "bytes": every.size,
        "fraction": every.size / pieces.fp16_bytes,
        "error": float(every.limited.mean()),
        "worst_error": float(every.limited.max()),
        "forms": dict(every.forms),
        "private_bytes": private.size,
        "private_fraction": private.size / pieces.fp16_bytes,
        "private_error": float(private.limited.mean()),
    }


def _reference(curve: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the point whose size is nearest to the reference share; None if there is none."""
    return min(curve, key=lambda x: abs(math.log(x["fraction"] / _REFERENCE)), default=None)


def _guesses(curve: Sequence[dict[str, Any]], fp16_bytes: int) -> list[dict[str, Any]]:
    """Return sizes for round errors, all forms and private alone; null outside the points."""
    return [
        {
            "error": error,
            "bytes": (size := _size_at(curve, error, "error", "bytes")),
            "fraction": size / fp16_bytes if size else None,
            "private_bytes": (alone := _size_at(curve, error, "private_error", "private_bytes")),
            "private_fraction": alone / fp16_bytes if alone else None,
        }
        for error in ERRORS
    ]


def _size_at(curve: Sequence[dict[str, Any]], error: float, errors: str, sizes: str) -> int | None:
    x = np.log([max(point[errors], 1e-9) for point in curve])
    y = np.log([point[sizes] for point in curve])
    if not x.size or not x[0] <= np.log(error) <= x[-1]:
        return None
    return round(float(np.exp(np.interp(np.log(error), x, y))))
