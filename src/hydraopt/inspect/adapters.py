"""What the adapters of one base model have in common, and what a bundle of them would cost.

Two walks over the modules: the first reads the factors and compares them, the second plans them at
a row of prices. Nothing is rounded, coded or written.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from hydraopt.adapters import Adapter, check_same_base, read_adapters
from hydraopt.compress.core import CoreStore
from hydraopt.inspect.likeness import Watched, likeness, mean_between
from hydraopt.inspect.products import NOTE, of_products
from hydraopt.inspect.summary import by_type, extremes, module_type
from hydraopt.inspect.walk import Walk
from hydraopt.linalg.shapes import Array
from hydraopt.merging.align import MergeSet, align
from hydraopt.merging.merge import DEFAULT_MEASURE
from hydraopt.progress import Progress, silent

__all__ = ["ERRORS", "SCHEMA", "inspect_adapters"]

SCHEMA = "hydraopt.inspect.adapters/1"

ERRORS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
"""Relative errors for which a size is guessed."""

_STEP = 3.0
_MOST_POINTS = 16
_BEST_ERROR, _WORST_ERROR = 0.045, 0.55
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
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Likeness, energy against rank, and a guess of size against error; ready for JSON.

    adapters, same_base, alpha: as for :func:`hydraopt.merge`. skip_unreadable: as for
    :func:`hydraopt.read_adapters`. measure: whose plans are estimated.
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
        walk = Walk(pieces, store, energies, measure, report)
        curves = _Curves.of(pieces, walk)
    squares = walk.squares
    savings = curves.savings() or [None] * len(modules)
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
        "curve": curves.points,
        "guesses": curves.guesses(),
        "reference": curves.points[curves.reference] if curves.points else None,
        "notes": [*loaded.notes, *pieces.notes, *_notes(pieces, walk)],
    }


def _notes(pieces: MergeSet, walk: Walk) -> Iterator[str]:
    """What the numbers leave out."""
    if of_products(pieces).any():
        yield NOTE
    names = [x.name for x in pieces.tasks if x.content is not None and not walk.judged[x.content]]
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield f"errors of {names[0]}{more} are not guessed: no factors, tensors alone"


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
    """Rows of modules, likeness of the whole adapters, and squared norms of what the modules hold,
    (contents, modules)."""
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
    """Smallest k whose k largest parts hold ``share`` of the energy; 0 for nothing."""
    if energy.size == 0:
        return 0
    return int(np.searchsorted(np.cumsum(energy), share * energy.sum() * (1 - 1e-12))) + 1


def _mean_cumulated(spectra: Sequence[Array]) -> list[float]:
    """Share of the energy in the k largest parts, k = 1..max r, mean over tasks that have any."""
    real = [x for x in spectra if x.size]
    length = max((x.size for x in real), default=0)
    total = np.zeros(length)
    for x in real:
        share = np.cumsum(x) / x.sum()
        total += np.concatenate([share, np.ones(length - x.size)])
    return [float(x) for x in total / max(len(real), 1)]


def _energy_curve(modules: Sequence[dict[str, Any]]) -> list[float]:
    """Share of the energy in the k largest parts of each module, mean over modules."""
    spectra = [row["spectrum"] for row in modules if row["spectrum"]]
    length = max(map(len, spectra), default=0)
    full = [x + [1.0] * (length - len(x)) for x in spectra]
    return [float(x) for x in np.mean(full, axis=0)] if full else []


def _names(pieces: MergeSet) -> list[list[str]]:
    """Task names of each content."""
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
    """Cosines between whole adapters; null where they are not defined."""
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


@dataclass(frozen=True)
class _Curves:
    """Points of size against error at falling prices, and each module's share in them.

    costs, bits: for each point, (modules, 2): all forms, and private alone.
    """

    points: list[dict[str, Any]]
    costs: list[Array]
    bits: list[Array]
    fp16_bytes: int

    @classmethod
    def of(cls, pieces: MergeSet, walk: Walk) -> _Curves:
        """Plan all modules at prices that span errors from small to useless."""
        if not walk.squares.any():
            return cls([], [], [], pieces.fp16_bytes)
        start = 1e-5 * 0.2**3 / pieces.contents
        done = [walk.at(start)]
        while done[0][0]["error"] > _BEST_ERROR and len(done) < _MOST_POINTS:
            done.insert(0, walk.at(done[0][0]["price"] / _STEP))
        while done[-1][0]["error"] < _WORST_ERROR and len(done) < _MOST_POINTS:
            done.append(walk.at(done[-1][0]["price"] * _STEP))
        sizes = [math.log(point["fraction"]) for point, *_ in done]
        prices = [math.log(point["price"]) for point, *_ in done]
        if sizes[-1] < math.log(_REFERENCE) < sizes[0]:
            price = np.interp(math.log(_REFERENCE), sizes[::-1], prices[::-1])
            done.append(walk.at(math.exp(price)))
            done.sort(key=lambda x: float(x[0]["price"]))
        points, costs, bits, _ = (list(x) for x in zip(*done, strict=True))
        return cls(points, costs, bits, pieces.fp16_bytes)

    @property
    def reference(self) -> int:
        """The point whose size is nearest to the reference share."""
        sizes = np.array([point["fraction"] for point in self.points])
        return int(np.abs(np.log(sizes / _REFERENCE)).argmin())

    def savings(self) -> list[dict[str, float] | None]:
        """For each module, what permitting shared forms saves at the reference price.

        saved_bytes is at equal harm, to first order: bytes saved and harm saved, the latter
        divided by the price.
        """
        if not self.points:
            return []
        i = self.reference
        price = self.points[i]["price"]
        return [
            {
                "bytes": bits[0] / 8,
                "private_bytes": bits[1] / 8,
                "saved_bytes": (cost[1] - cost[0]) / price / 8,
                "saved": (cost[1] - cost[0]) / price / bits[1] if bits[1] else 0.0,
            }
            for cost, bits in zip(self.costs[i].tolist(), self.bits[i].tolist(), strict=True)
        ]

    def guesses(self) -> list[dict[str, Any]]:
        """Sizes for round errors, all forms and private alone; null outside the points."""
        return [
            {
                "error": error,
                "bytes": (size := self._size_at(error, "error", "bytes")),
                "fraction": size / self.fp16_bytes if size else None,
                "private_bytes": (alone := self._size_at(error, "private_error", "private_bytes")),
                "private_fraction": alone / self.fp16_bytes if alone else None,
            }
            for error in ERRORS
        ]

    def _size_at(self, error: float, errors: str, sizes: str) -> int | None:
        x = np.log([max(point[errors], 1e-9) for point in self.points])
        y = np.log([point[sizes] for point in self.points])
        if not x.size or not x[0] <= np.log(error) <= x[-1]:
            return None
        return round(float(np.exp(np.interp(np.log(error), x, y))))
