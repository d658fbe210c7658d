"""Likeness of a bundle's tasks, and its size and error at other sizes.

Likeness comes from the tasks' products, of the originals or as the bundle decodes. Several other
sizes are coded as ``shrink`` or ``merge`` codes them, so their errors are those of that command;
between them errors are interpolated.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from hydraopt.adapters import Adapters, check_same_base, read_adapters
from hydraopt.adapters.start import traced
from hydraopt.bundle.reader import Bundle
from hydraopt.coding.forms import FORMS
from hydraopt.compress.core import CoreStore
from hydraopt.compress.measure import measure_named
from hydraopt.editing.held import decoded_set
from hydraopt.editing.shrink import shrunk_sizes
from hydraopt.engines.engine import Engine
from hydraopt.errors import UsageError, explain
from hydraopt.inspect.likeness import likeness
from hydraopt.inspect.products import of_products
from hydraopt.linalg.interpolate import MonotoneCubic
from hydraopt.linalg.shapes import Array
from hydraopt.merging.align import align
from hydraopt.merging.budget import Size
from hydraopt.merging.merge import PERHAPS_ALL
from hydraopt.merging.options import DEFAULT_MEASURE
from hydraopt.merging.outcome import Job
from hydraopt.merging.recipe import MergeRecipe
from hydraopt.merging.sizes import (
    PASSES,
    SIZES,
    CodedSize,
    coded_size,
    coded_sizes,
    passes_within_reach,
    steps,
)
from hydraopt.merging.solving import SearchOptions, solve
from hydraopt.progress import Progress, silent
from hydraopt.threads import one_blas_thread
from hydraopt.values import counted, listed

__all__ = ["Choice", "Choices", "choices"]

_LARGEST, _SMALLEST = 2.5, 0.15
"""Sizes of another merge to code, as multiples of the bundle's own."""
_BETWEEN: Final = 3
"""Sizes to interpolate between two that were coded."""
_TINY: Final = 1e-9
"""Smallest error that has a logarithm here."""
_MOST_NAMED: Final = 8


@dataclass(frozen=True)
class Choice:
    """Size that the tasks could have.

    size (bytes): of the whole file. errors: by task, relative Frobenius error against the original.
    """

    size: int
    errors: Mapping[str, float]


@dataclass(frozen=True)
class Choices:
    """Costs of other sizes, and likeness of tasks.

    tasks: names of the tasks that are compared, sorted.
    cosines (tasks, tasks): cosines between their dW's over all modules; NaN where a dW is zero or a
    dW of products.
    points: other sizes of the whole bundle, by falling size.
    originals: True if the originals were read. Sizes are then those of a merge of them without
    prompts, else those of shrinking the bundle.
    missing: reason for having no points, as a sentence; empty if there are some, or none were asked
    for.
    """

    tasks: tuple[str, ...]
    cosines: Array
    points: tuple[Choice, ...]
    originals: bool
    missing: str = ""


def choices(
    bundle: Bundle,
    adapters: Iterable[str | os.PathLike[str]] = (),
    only: Collection[str] | None = None,
    *,
    sizes: bool = True,
    same_base: bool = False,
    alpha: float | None = None,
    workers: int | Engine | None = None,
    progress: Progress | None = None,
) -> Choices:
    """Compare the tasks of ``bundle`` that are coded, and code the bundle at other sizes.

    adapters: the originals; without them the tasks are taken as the bundle decodes. only: names of
    the tasks to compare; default all. sizes: whether to code other sizes. workers: as of
    :func:`hydraopt.merge`. Raises a HydraoptError for adapters or a bundle that cannot be read, and
    for originals of no task of the bundle at all.
    """
    names = {x.name for x in bundle.manifest.tasks if x.content is not None and not x.lossless}
    names &= names if only is None else set(only)
    given, report = list(adapters), progress or silent
    loaded = _originals(given, bundle, same_base, alpha) if given else None
    if loaded is not None and not any(x.name in names for x in loaded):
        return Choices((), np.zeros((0, 0)), (), True)
    if not names:
        return Choices((), np.zeros((0, 0)), (), False)
    tasks, cosines = _likeness(bundle, loaded, names, same_base, report)
    points: list[CodedSize] = []
    missing = _reason(bundle, loaded) if sizes else ""
    if sizes and not missing:
        if loaded is None:
            points = shrunk_sizes(bundle, workers=workers, progress=progress)
        else:
            points = _merged_sizes(bundle, loaded, same_base, workers, progress)
        if len(points) < 2:
            points, missing = [], _UNREACHED
    drawn = _with_between([(point.size, point.errors) for point in points])
    made = tuple(Choice(*point) for point in drawn)
    return Choices(tasks, cosines, made, loaded is not None, missing)


_UNREACHED: Final = (
    "No other size is shown: the tasks are too many numbers to code several times, or a smaller "
    "size would leave little of them. hydraopt shrink and hydraopt merge make one."
)


def _reason(bundle: Bundle, loaded: Adapters | None) -> str:
    """Return the reason why no other size can be coded, as a sentence; "" if there is none."""
    manifest = bundle.manifest
    if bundle.base is None and any(x.base is not None for x in manifest.tensors):
        return (
            "No other size is shown: tensors are differences from the base model, "
            "which a page does not have."
        )
    if loaded is None:
        lossless = [task.name for task in manifest.tasks if task.lossless]
        if not lossless:
            return ""
        return (
            f"No other size is shown: hydraopt shrink refuses a bundle with tasks "
            f"that are kept bit by bit, here {counted(len(lossless), 'task')}, {lossless[0]} among "
            "them."
        )
    missing = sorted(set(bundle) - {x.name for x in loaded})
    if not missing:
        return ""
    return (
        f"No other size is shown: {counted(len(missing), 'task')} of "
        f"{len(bundle):,} had no original, {missing[0]} among them, and a merge of the rest is not "
        "this bundle."
    )


def _likeness(
    bundle: Bundle,
    loaded: Adapters | None,
    names: Collection[str],
    same_base: bool,
    report: Progress,
) -> tuple[tuple[str, ...], Array]:
    """Return the names of the tasks that are compared, and their cosines, (tasks, tasks)."""
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
    norms = np.sqrt(np.diag(inner).clip(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = (inner / np.outer(norms, norms))[np.ix_(contents, contents)]
    return tuple(task.name for task in order), cosines


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


def _merged_sizes(
    bundle: Bundle,
    loaded: Adapters,
    same_base: bool,
    workers: int | Engine | None,
    progress: Progress | None,
) -> list[CodedSize]:
    """Return the sizes that a merge of the originals makes, with no option but the size."""
    given = traced(loaded, progress or silent)
    pieces = align(given, check_same_base(loaded, same_base), lossless=False)
    if not pieces.contents:
        return []
    largest = min(_LARGEST * bundle.size, PERHAPS_ALL * pieces.fp16_bytes)
    options = SearchOptions(measure_named(DEFAULT_MEASURE), workers=workers, progress=progress)

    def make(budget: Size) -> CodedSize:
        recipe = MergeRecipe(DEFAULT_MEASURE, Size.name, float(budget.limit), tuple(FORMS))
        job = Job.of(pieces, recipe)
        return coded_size(job, solve(job, budget, options).draft)

    count = passes_within_reach(PASSES * pieces.numbers, SIZES)
    return coded_sizes(make, largest, _SMALLEST * bundle.size, count)


def _with_between(
    points: Sequence[tuple[int, Mapping[str, float]]],
) -> list[tuple[int, Mapping[str, float]]]:
    """Return (size, errors) of the coded sizes, and of sizes between them at even steps.

    Errors in between follow a monotone cubic through the logarithms of size and error.
    """
    if not points:
        return []
    logs = np.log([size for size, _ in reversed(points)])
    by_task = {name: [max(x[name], _TINY) for _, x in reversed(points)] for name in points[0][1]}
    lines = {name: MonotoneCubic(logs, np.log(errors)) for name, errors in by_task.items()}
    made = [points[0]]
    for (left, _), right in pairwise(points):
        for size in steps(left, right[0], _BETWEEN + 2)[1:-1]:
            at = np.log([size])
            made.append((size, {name: math.exp(line(at)[0]) for name, line in lines.items()}))
        made.append(right)
    return made
