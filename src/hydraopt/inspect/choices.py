"""What a decision about a bundle is made from: how alike its tasks are, and what other sizes cost.

Both come from one walk over the tasks' products, of the originals or as the bundle decodes. The
sizes are guesses: modules are planned at a row of prices, and nothing is coded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from threadpoolctl import threadpool_limits

from hydraopt.adapters import Adapters, check_same_base, read_adapters
from hydraopt.bundle.harm import Harm
from hydraopt.bundle.reader import Bundle
from hydraopt.compress.core import CoreStore
from hydraopt.errors import UsageError, explain
from hydraopt.inspect.likeness import likeness
from hydraopt.inspect.products import of_products
from hydraopt.inspect.walk import Walk
from hydraopt.linalg.shapes import Array
from hydraopt.merging.align import MergeSet, align
from hydraopt.merging.harm.stored import StoredCurves
from hydraopt.merging.held import decoded_set
from hydraopt.merging.merge import DEFAULT_MEASURE
from hydraopt.progress import Progress, silent
from hydraopt.values import listed

__all__ = ["Choice", "Choices", "choices"]

_STEP: Final = 1.7
_MOST_POINTS: Final = 14
_START: Final = 1e-7
_LARGEST: Final = 2.5
_SMALLEST: Final = 0.15
"""Sizes that are guessed, as multiples of the bundle's own."""
_MOST_NAMED: Final = 8


@dataclass(frozen=True)
class Choice:
    """A size that the tasks could have.

    size: bytes of the whole file, guessed. errors: relative Frobenius errors against the originals,
    task by task. likely, kl: what the bundle's curves of harm say of these errors, as in
    hydraopt.bundle.Harm; None for a task without a curve.
    """

    size: int
    errors: tuple[float, ...]
    likely: tuple[float | None, ...]
    kl: tuple[float | None, ...]


@dataclass(frozen=True)
class Choices:
    """tasks: names, sorted. cosines: of their dW's over all modules, (tasks, tasks); NaN where a dW
    is zero, or one of products. points: by falling size. originals: whether the originals were
    read; else sizes are those of shrinking the bundle, smaller than it, and errors are
    estimates."""

    tasks: tuple[str, ...]
    cosines: Array
    points: tuple[Choice, ...]
    originals: bool


def choices(
    bundle: Bundle,
    adapters: Iterable[str | os.PathLike[str]] = (),
    only: Collection[str] | None = None,
    *,
    sizes: bool = True,
    same_base: bool = False,
    alpha: float | None = None,
    progress: Progress | None = None,
) -> Choices:
    """Likeness and sizes of the tasks of ``bundle`` that are coded, those in ``only`` if given.

    adapters: the originals; without them the tasks are taken as the bundle decodes, and what a
    smaller size adds to their errors is independent noise, so squares add. Nothing comes of those
    of other tasks. sizes: whether sizes are guessed. Raises a HydraoptError for adapters or a
    bundle that cannot be read, and for originals of no task of the bundle at all.
    """
    names = {x.name for x in bundle.manifest.tasks if x.content is not None and not x.lossless}
    names &= names if only is None else set(only)
    given = list(adapters)
    if given:
        kept = _originals(given, bundle, names, same_base, alpha)
        if not kept:
            return Choices((), np.zeros((0, 0)), (), True)
        pieces = align(kept, check_same_base(kept, same_base), lossless=False)
    else:
        pieces = decoded_set(bundle, names)
    order = [task for task in pieces.tasks if task.content is not None and task.name in names]
    contents = np.array([task.content for task in order], np.int64)
    report = progress or silent
    store = CoreStore(list(pieces.readers))
    with threadpool_limits(1, user_api="blas"):
        inner, energies = _walk(pieces, store, report)
        points: list[tuple[int, Array]] = []
        if sizes and energies.any() and not any(task.tensors for task in order):
            walk = Walk(pieces, store, energies, DEFAULT_MEASURE, report)
            points = _sizes(walk, bundle.size, bool(given))
    apart = of_products(pieces)
    inner[apart] = inner[:, apart] = np.nan
    norms = np.sqrt(np.diag(inner).clip(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = (inner / np.outer(norms, norms))[np.ix_(contents, contents)]
    tasks = tuple(task.name for task in order)
    told = _told(bundle, tasks, [(size, errors[contents]) for size, errors in points], bool(given))
    return Choices(tasks, cosines, told, bool(given))


def _originals(
    adapters: Sequence[str | os.PathLike[str]],
    bundle: Bundle,
    names: Collection[str],
    same_base: bool,
    alpha: float | None,
) -> Adapters:
    """Those of the tasks ``names``, if any; UsageError if they are of no task of the bundle."""
    loaded = read_adapters(adapters, same_base=same_base, alpha=alpha)
    if not any(x.name in bundle for x in loaded):
        raise UsageError(
            explain(
                "none of the originals is a task of the bundle",
                got=listed([x.name for x in loaded], _MOST_NAMED),
                expected=listed(list(bundle), _MOST_NAMED),
            )
        )
    return Adapters([x for x in loaded if x.name in names])


def _walk(pieces: MergeSet, store: CoreStore, report: Progress) -> tuple[Array, Array]:
    """<dW_s, dW_t> over all modules, (contents, contents), and squared norms of what the modules
    hold, (contents, modules)."""
    inner = np.zeros((pieces.contents, pieces.contents))
    energies = np.zeros((pieces.contents, len(store)))
    for index in range(len(store)):
        core = store.core(index)
        inner[np.ix_(core.contents, core.contents)] += likeness(core).inner
        energies[core.contents, index] = [float(s @ s) for s in core.s]
        report("comparing tasks", index + 1, len(store))
    return inner, energies


def _sizes(walk: Walk, size: int, larger: bool) -> list[tuple[int, Array]]:
    """(bytes, errors of the contents) by falling size, around ``size``, or at most that."""
    most, least = (_LARGEST if larger else 1.0) * size, _SMALLEST * size
    made: list[tuple[int, Array]] = []
    price = _START
    for _ in range(_MOST_POINTS):
        point, _, _, errors = walk.at(price, alone=False)
        if point["bytes"] <= most:
            made.append((int(point["bytes"]), errors))
        elif point["bytes"] > 2 * most:
            price *= _STEP  # far off: two steps at a time
        if point["bytes"] < least:
            break
        price *= _STEP
    return made


def _told(
    bundle: Bundle, tasks: Sequence[str], points: Sequence[tuple[int, Array]], originals: bool
) -> tuple[Choice, ...]:
    """The points with errors against the originals, and what the stored curves say of them."""
    before = {task.name: task.error for task in bundle.manifest.tasks}
    curves = StoredCurves(bundle.manifest)
    made = []
    for size, added in points:
        pairs = list(zip(tasks, added.tolist(), strict=True))
        errors = [error if originals else math.hypot(error, before[name]) for name, error in pairs]
        harms = [_harm(curves, name, error, originals) for name, error in pairs]
        likely = tuple(None if harm is None else harm.likely for harm in harms)
        kl = tuple(None if harm is None else harm.kl for harm in harms)
        made.append(Choice(size, tuple(errors), likely, kl))
    return tuple(sorted(made, key=lambda x: -x.size))


def _harm(curves: StoredCurves, task: str, error: float, originals: bool) -> Harm | None:
    if task not in curves.tasks():
        return None
    if originals:
        return curves.of_original(task, error)
    return curves.measure(task, dict, error).harm
