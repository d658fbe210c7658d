"""Merge: many adapters in, one bundle out. The table of contents of the library.

    read -> align -> (plan -> encode -> write streams) until the budget is met -> write the bundle

``merge`` starts from adapters, ``shrink`` from a bundle; both hand a MergeSet to ``solve``.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hydraopt.adapters import Adapter, check_same_base, read_adapters
from hydraopt.align import MergeSet, align
from hydraopt.budget import Budget, Found, parse_size, search
from hydraopt.bundle.carried import Carried, pack_carried
from hydraopt.bundle.spec import Manifest, TaskEntry
from hydraopt.bundle.writer import bundle_size, write_bundle
from hydraopt.core import ROOM, CoreStore
from hydraopt.errors import BudgetError, UsageError, explain
from hydraopt.measure import Measure, measure_named
from hydraopt.parts import FORMS
from hydraopt.passes import Draft, Passes, Progress
from hydraopt.plan import modes_of
from hydraopt.rescaling import Rescaler, rescaled
from hydraopt.types import Array
from hydraopt.weights import Sensitivity, importances, module_weights, task_weights

__all__ = [
    "DEFAULT_MEASURE",
    "DEFAULT_SIZE",
    "MergeResult",
    "Options",
    "Sized",
    "assemble",
    "finish",
    "merge",
    "pack",
    "solve",
]

DEFAULT_SIZE = "10%"
DEFAULT_MEASURE = "bias-aware"
_NEARLY_ALL = 0.9
"""Of the fp16 bytes: where a bundle gets a note that lossless is there too."""
_MOST_ROOM = 1 << 30
"""Bytes of shared spaces kept between passes are as many as the inputs have, up to this."""
_HARMLESS = 0.25
"""Relative error up to which hardly a task of the evidence sets lost points (docs/evidence)."""

StrPath = str | os.PathLike[str]


class Sized:
    """A written bundle: its path, its bytes, and what its inputs take in fp16."""

    path: Path
    size: int
    fp16_bytes: int

    @property
    def fraction(self) -> float:
        """Size as a fraction of the inputs in fp16."""
        return self.size / self.fp16_bytes

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = dataclasses.asdict(self)  # type: ignore[call-overload]  # dataclasses inherit
        return {**values, "path": str(self.path), "fraction": self.fraction}


@dataclass(frozen=True)
class MergeResult(Sized):
    """What a merge made.

    path, size: the bundle and its bytes, everything counted. fp16_bytes: two bytes for each number
    in the inputs. errors: relative Frobenius error of each task. forms: records by form. price:
    harm a bit was allowed to cost. passes: coding passes it took. notes: what a user should know.
    """

    path: Path
    size: int
    fp16_bytes: int
    errors: Mapping[str, float]
    forms: Mapping[str, int]
    measure: str
    price: float
    passes: int
    seconds: float
    notes: tuple[str, ...]


def merge(
    adapters: StrPath | Iterable[StrPath | Adapter],
    output: StrPath,
    *,
    size: str | int | None = None,
    error: float | None = None,
    max_error: float | None = None,
    lossless: bool = False,
    importance: Mapping[str, float] | None = None,
    fair: bool = False,
    measure: str | Measure = DEFAULT_MEASURE,
    sensitivity: Sensitivity | None = None,
    rescaler: Rescaler | None = None,
    forms: Sequence[str] | None = None,
    same_base: bool = False,
    alpha: float | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> MergeResult:
    """Merge adapters of one base model into one bundle file at ``output``.

    adapters: paths, globs, NAME=PATH strings or Adapters. One limit at most: size ("5%" of the
    inputs' fp16 bytes, "3MB", or bytes; never exceeded), error (mean relative Frobenius error over
    tasks), max_error (of the worst task), or lossless (every tensor back bit for bit). Default: 10
    %. importance: weight of a task's error, default 1 each. fair: weights are moved until all tasks
    have the same relative error. measure: see hydraopt.measure. sensitivity: which modules of a
    task matter more; only ratios within a task count. rescaler: asked for each task, or once for
    equal ones, how much longer its coded parts shall be (hydraopt.rescaling). forms: those
    permitted, default all (names of hydraopt.parts.FORMS). same_base: take base models written
    differently as one. alpha: for files that do not state theirs. threads: default all cores; does
    not change the result. progress: called with (stage, done, total).

    The same content gives the same bytes, whatever the order of the adapters. Raises a
    HydraoptError for anything wrong with the input, before ``output`` is touched.
    """
    started = time.monotonic()
    limits = {"size": size, "error": error, "max-error": max_error, "lossless": lossless or None}
    given = [name for name, value in limits.items() if value is not None]
    if len(given) > 1:
        raise UsageError(explain("more than one limit", got=", ".join(given), expected="one"))
    choices: dict[str, Any] = {"importance": importance, "fair": fair, "forms": forms}
    choices |= {"sensitivity": sensitivity, "rescaler": rescaler}
    idle = [name for name, value in choices.items() if value]
    if lossless and idle:
        raise UsageError(
            explain(
                "lossless leaves nothing to weigh or to choose",
                got=", ".join(idle),
                do="Leave these out, or give a size or an error instead",
            )
        )
    chosen = measure_named(measure) if isinstance(measure, str) else measure
    loaded, base = _load(adapters, same_base, alpha)
    pieces = align(loaded, base, lossless=lossless)
    kind = "size" if not given or given[0] == "lossless" else given[0]
    value = limits[kind]
    if kind == "size":
        value = parse_size(DEFAULT_SIZE if size is None else size, pieces.fp16_bytes)
    budget = Budget(kind, float(value or 0))  # type: ignore[arg-type]
    recipe: dict[str, Any] = {"measure": chosen.name, "fair": fair, "forms": list(forms or FORMS)}
    recipe |= {"limit": kind if not lossless else "lossless", "value": value}
    if sensitivity:
        recipe["sensitivity"] = sorted(sensitivity)
    carried = pack(pieces)
    found = None
    if pieces.contents:
        weights = importances(pieces, importance or {})
        options = Options(chosen, forms, fair, threads, progress, sensitivity)
        found = solve(pieces, carried, budget, weights, options, recipe)
        if rescaler:
            found, notes = _rescaled(found, pieces, carried, loaded, rescaler, budget, recipe)
            pieces = dataclasses.replace(pieces, notes=(*pieces.notes, *notes))
    manifest = assemble(pieces, carried, found.draft if found else None, recipe)
    limit = None if lossless else budget
    result = finish(output, pieces, carried, manifest, found, limit, chosen, started)
    return result if given else _with_advice(result)


def _rescaled(
    found: Found,
    pieces: MergeSet,
    carried: Carried,
    adapters: Sequence[Adapter],
    rescaler: Rescaler,
    budget: Budget,
    recipe: dict[str, Any],
) -> tuple[Found, tuple[str, ...]]:
    """With other coefficients, counted in ``recipe``, and notes: in how many tasks, and if the
    budget stood in the way."""

    def value_of(draft: Draft, tasks: int) -> float:
        counted = recipe | ({"rescaled": tasks} if tasks else {})
        return _value_of(budget, pieces, carried, counted)(draft)

    originals = {adapter.name: adapter for adapter in adapters}
    draft, tasks, back = rescaled(found.draft, pieces, originals, rescaler, budget, value_of)
    if tasks:
        recipe["rescaled"] = tasks
    notes = [f"coded parts were rescaled in {tasks} of {len(pieces.tasks)} tasks"]
    if back:
        notes.append(
            f"the parts of {back} tasks kept the lengths that the encoder gave them: with others "
            f"the {budget.kind} would not be kept"
        )
    return dataclasses.replace(found, draft=draft), tuple(notes)


def _with_advice(result: MergeResult) -> MergeResult:
    """The result of a default merge, with a note if the default is small for these adapters."""
    worst = max(result.errors, key=lambda task: result.errors[task], default=None)
    if worst is None or result.errors[worst] <= _HARMLESS:
        return result
    advice = (
        f"{DEFAULT_SIZE} leaves errors up to {result.errors[worst]:.2f} ({worst}): above "
        f"{_HARMLESS:g} tasks may lose points, long exact answers before; --max-error 0.2, or 0.1 "
        "for these, takes more bytes and less risk"
    )
    return dataclasses.replace(result, notes=(*result.notes, advice))


def finish(
    output: StrPath,
    pieces: MergeSet,
    carried: Carried,
    manifest: Manifest,
    found: Found | None,
    budget: Budget | None,
    measure: Measure,
    started: float,
) -> MergeResult:
    """Write the bundle, unless it would be larger than the budget, and say what was made."""
    draft = found.draft if found else None
    payload = (draft.shared, draft.streams) if draft else (b"", ())
    total = bundle_size(manifest, *payload, carried.data)
    if budget is not None and budget.kind == "size" and total > budget.value:
        raise _too_small(budget, total, carried)
    notes = pieces.notes
    if draft and total > _NEARLY_ALL * pieces.fp16_bytes:
        notes += (f"{total:,} bytes are hardly less than fp16; lossless mostly takes less still",)
    return MergeResult(
        Path(output),
        write_bundle(output, manifest, *payload, carried.data),
        pieces.fp16_bytes,
        {task.name: task.error for task in manifest.tasks},
        draft.forms if draft else {},
        measure.name,
        draft.price if draft else 0.0,
        found.passes if found else 0,
        time.monotonic() - started,
        notes,
    )


def _load(
    adapters: StrPath | Iterable[StrPath | Adapter], same_base: bool, alpha: float | None
) -> tuple[list[Adapter], str | None]:
    if isinstance(adapters, str | os.PathLike):
        adapters = [adapters]
    items = list(adapters)
    ready = [item for item in items if isinstance(item, Adapter)]
    paths = [item for item in items if not isinstance(item, Adapter)]
    if paths:
        ready += read_adapters(paths, same_base=same_base, alpha=alpha)
    ready.sort(key=lambda adapter: adapter.name)
    names = [adapter.name for adapter in ready]
    if len(set(names)) != len(names):
        raise UsageError(explain("two adapters have one name", got=names, do="Rename one"))
    return ready, check_same_base(ready, same_base)


def pack(pieces: MergeSet) -> Carried:
    """The tensors to carry, coded without loss."""
    names = [task.name for task in pieces.tasks]
    return pack_carried(dict(zip(names, pieces.carried, strict=True)))


@dataclass(frozen=True)
class Options:
    """How to search for a draft: see :func:`merge` for what each one means."""

    measure: Measure
    forms: Sequence[str] | None = None
    fair: bool = False
    threads: int | None = None
    progress: Progress | None = None
    sensitivity: Sensitivity | None = None


def solve(
    pieces: MergeSet,
    carried: Carried,
    budget: Budget,
    importance: Array,
    options: Options,
    recipe: Mapping[str, Any],
) -> Found:
    """Passes at falling or rising prices until the budget is met; the draft that met it."""
    unknown = sorted(set(options.forms or ()) - set(FORMS))
    if unknown:
        raise UsageError(explain("unknown form", got=", ".join(unknown), expected=", ".join(FORMS)))
    passes = Passes(
        CoreStore(pieces.sources, room=min(max(ROOM, pieces.fp16_bytes), _MOST_ROOM)),
        pieces.contents,
        options.measure,
        modes_of(options.forms or FORMS),
        options.threads,
        options.progress,
    )
    energies = passes.energies()
    weights = task_weights(energies, importance, options.measure)
    passes.weigh_modules(
        module_weights(pieces, energies, options.measure, options.sensitivity or {})
    )

    value_of = _value_of(budget, pieces, carried, recipe)
    fixed = 0
    if budget.kind == "size":
        fixed = int(value_of(Draft.empty(weights, len(pieces.sources))))
        if budget.value <= fixed:
            raise _too_small(budget, fixed, carried)
    numbers = max(pieces.fp16_bytes // 2, 1)
    return search(passes, budget, weights, value_of, numbers, fixed, options.fair)


def _value_of(
    budget: Budget, pieces: MergeSet, carried: Carried, recipe: Mapping[str, Any]
) -> Callable[[Draft], float]:
    """What the budget limits, as a function of a draft: bytes of the whole file, or an error."""

    def size_of(draft: Draft) -> float:
        manifest = assemble(pieces, carried, draft, recipe)
        return float(bundle_size(manifest, draft.shared, draft.streams, carried.data))

    def error_of(draft: Draft) -> float:
        errors = draft.relative_errors()
        per_task = [errors[task.content] for task in pieces.tasks if task.content is not None]
        return float(np.mean(per_task) if budget.kind == "error" else np.max(per_task))

    return size_of if budget.kind == "size" else error_of


def _too_small(budget: Budget, least: int, carried: Carried) -> BudgetError:
    kept = sum(map(len, carried.data))
    return BudgetError(
        explain(
            "the size cannot be kept",
            got=f"{least:,} bytes at least, {kept:,} of them carried bit by bit "
            "(heads, biases, embeddings and the like)",
            expected=f"at most {int(budget.value):,} bytes",
            do="Ask for more, or merge fewer adapters",
        )
    )


def assemble(
    pieces: MergeSet, carried: Carried, draft: Draft | None, recipe: Mapping[str, Any]
) -> Manifest:
    """The manifest with what was measured filled in."""
    tasks: list[TaskEntry] = []
    for task in pieces.tasks:
        changes: dict[str, Any] = {"carried": carried.tasks.get(task.name, ())}
        if draft is not None and task.content is not None:
            mine = list(task.modules)
            energies = draft.energies[task.content, mine]
            ratio = draft.errors[task.content, mine] / np.where(energies > 0, energies, 1.0)
            changes["errors"] = tuple(float(x) for x in np.sqrt(ratio))
            changes["error"] = float(draft.relative_errors()[task.content])
        tasks.append(dataclasses.replace(task, **changes))
    return Manifest(
        pieces.modules,
        tuple(tasks),
        tuple(carried.blobs),
        tuple(pieces.configs),
        dict(recipe),
        pieces.base_model,
    )
