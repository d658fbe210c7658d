"""New core for a collection: the expected saving, and the collection rebuilt over it.

Tasks come from their originals where these are given, else as the collection holds them; then the
error that the new coding adds is an estimate, as after a shrink.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hydraopt.adapters import Adapter, BaseTensors, open_base, traced
from hydraopt.bundle import (
    Bundle,
    Folder,
    Manifest,
    PackedBundle,
    TaskAdapter,
    as_folder,
    check_current,
    check_parent,
    collection_at,
    distance_from,
    folder_of,
    written_folder,
)
from hydraopt.errors import TaskNotFoundError, UsageError, explain
from hydraopt.files import (
    INDEX_NAME,
    AnyPath,
    StrPath,
    check_apart,
    destination,
    is_folder,
    locked_if_there,
    place_of,
)
from hydraopt.merging.alignment import MergeSet, align, joined
from hydraopt.merging.coder import check_has_core, digest_of, options_in, price_in
from hydraopt.merging.job import Draft, Job, inputs_of, load
from hydraopt.merging.limits import Budget, HarmLimit, Limit, refresh_recipe
from hydraopt.merging.options import MergeOptions
from hydraopt.merging.shrinking import against_originals, decoded_set, lost_harm
from hydraopt.merging.solving import KeptError, solve_budget, solve_kept
from hydraopt.merging.workers import Engine
from hydraopt.notes import Note
from hydraopt.progress import Progress, silent

MORE: Final = 1.1
"""Factor above which an error counts as grown."""


@dataclass(frozen=True)
class Grown:
    """A task whose error grows by more than a tenth, as its entry states it before and after."""

    name: str
    before: float
    after: float


@dataclass(frozen=True)
class Expected:
    """Size of a collection over a new core.

    size (bytes): of the whole now. expected_size (bytes): of the whole over a new core; of a folder
    at most. coded_bytes: of the core and all streams now. expected_bytes: of those over a new core.
    added: tasks that came after the merge. decoded: tasks that are taken as the collection holds
    them, since no original is given.
    """

    path: AnyPath
    size: int
    expected_size: int
    coded_bytes: int
    expected_bytes: int
    tasks: int
    added: int
    decoded: int
    grown: tuple[Grown, ...]

    @property
    def saved(self) -> float:
        """Share of the whole that a new core would save; below 0 if it costs."""
        return 1 - self.expected_size / self.size if self.size else 0.0


@dataclass(frozen=True)
class Refreshed:
    """Collection with a new core.

    size_before, size: bytes of the whole.
    errors: error of each task.
    from_originals: tasks that were coded from their originals.
    """

    path: AnyPath
    size_before: int
    size: int
    errors: Mapping[str, float]
    from_originals: tuple[str, ...]
    seconds: float
    notes: tuple[Note, ...] = ()
    grown: tuple[Grown, ...] = ()


def grown(before: Manifest, after: Manifest) -> tuple[Grown, ...]:
    """Return the tasks in both manifests whose errors grow by more than a tenth."""
    old = {task.name: task.error for task in before.tasks}
    return tuple(
        Grown(task.name, old[task.name], task.error)
        for task in after.tasks
        if task.name in old and task.error > MORE * old[task.name]
    )


_UNLIKE: Final = 2.0, 0.1
"""Largest distance from an original at which a task is taken to be made of it.

The first number is a factor on the error that the task states, which may be an estimate; the second
is added.
"""
_COARSE: Final = 1.5
"""Factor on the error of the common price from which an added task is taken to have had a limit."""
_LEAST_ERROR: Final = 1e-5
"""Smallest error for which a task is coded to keep its error."""
_GIVE_LIMIT: Final = "Give --size or --error, and -o or --force"


@dataclass(frozen=True)
class _Tasks:
    """Tasks to merge, and their originals where these are given."""

    bundle: Bundle
    pieces: MergeSet
    originals: Mapping[str, Adapter]
    notes: tuple[Note, ...]

    @property
    def decoded(self) -> set[str]:
        """Tasks that are coded again from what the collection holds."""
        tasks = self.bundle.manifest.tasks
        return {x.name for x in tasks if not x.lossless and x.name not in self.originals}


def expected_saving(
    path: StrPath,
    *,
    adapters: StrPath | Iterable[StrPath | Adapter] = (),
    same_base: bool = False,
    alpha: float | None = None,
    base: StrPath | BaseTensors | None = None,
    workers: int | Engine | None = None,
    progress: Progress | None = None,
) -> Expected:
    """Return what :func:`refresh` would save without a limit; arguments as there.

    All is coded as there, and nothing is written. Raises UsageError where the recipe does not say
    a price.
    """
    collection = collection_at(path)
    tasks = _tasks(collection.bundle(), adapters, same_base, alpha, open_base(base), progress)
    sizes, before = tasks.bundle.tensor_bytes, tasks.bundle.manifest
    now = sizes["shared"] + sum(x for name, x in sizes.items() if name.startswith("task/"))
    options = options_in(tasks.bundle.recipe, workers, progress)
    job, draft = _solved(tasks, None, options, _core_file(collection.path))
    manifest = job.manifest(draft)
    return Expected(
        collection.path,
        collection.size(),
        job.size(draft, manifest),
        now,
        draft.coded_bytes if draft else 0,
        len(before.tasks),
        sum(task.added is not None for task in before.tasks),
        len(tasks.decoded),
        grown(before, manifest),
    )


def refresh(
    path: StrPath,
    output: StrPath | None = None,
    *,
    adapters: StrPath | Iterable[StrPath | Adapter] = (),
    size: str | int | None = None,
    error: float | None = None,
    same_base: bool = False,
    alpha: float | None = None,
    base: StrPath | BaseTensors | None = None,
    workers: int | Engine | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> Refreshed:
    """Make a new core for all tasks of the collection at ``path``, and code them over it.

    output: where to, of the same kind (a file or a folder); None is in its own place, in one step.
    adapters: originals, by the names of their tasks. size, error: as of :func:`hydraopt.merge`;
    without them the price of a bit stays, but for tasks that lose by it. same_base, alpha, base,
    workers, progress: as there. force: replace another collection's parts in a folder ``output``.

    Tasks that were added keep their history. Raises TaskNotFoundError for an adapter that is no
    task, UsageError for one that is not the file which was added or merged, or where no price is
    known, and what :func:`hydraopt.merge` raises, before anything is written.
    """
    started = time.monotonic()
    limit = Limit(size, error)
    # The folder and not its core file: every task in it gets another core.
    collection = collection_at(folder_of(place_of(path)) or path)
    _check_output(collection.path, output)
    with collection.locked():
        before = collection.size()
        tasks = _tasks(collection.bundle(), adapters, same_base, alpha, open_base(base), progress)
        if output is not None:
            check_apart(output, inputs_of(tasks.originals.values()))
        budget = limit.budget(tasks.pieces.fp16_bytes)
        assert not isinstance(budget, HarmLimit)
        options = options_in(tasks.bundle.recipe, workers, progress)
        job, draft = _solved(tasks, budget, options, _core_file(collection.path))
        manifest = job.manifest_within(budget, draft)
        if output is None:
            check_current(tasks.bundle.files[0], collection.path)
        written = _write(job.packed(draft, manifest), collection.path, output, force)
    target = place_of(output) if output is not None else collection.path
    return Refreshed(
        target,
        before,
        written,
        {task.name: task.error for task in manifest.tasks},
        tuple(sorted(tasks.originals)),
        time.monotonic() - started,
        tasks.notes,
        grown(tasks.bundle.manifest, manifest),
    )


def _tasks(
    bundle: Bundle,
    adapters: StrPath | Iterable[StrPath | Adapter],
    same_base: bool,
    alpha: float | None,
    base: BaseTensors | None,
    progress: Progress | None,
) -> _Tasks:
    bundle.base = base or bundle.base
    check_has_core(bundle)
    given = [adapters] if isinstance(adapters, str | os.PathLike) else list(adapters)
    loaded = load(given, same_base, alpha) if given else None
    originals = {x.name: x for x in loaded.adapters} if loaded else {}
    _check_originals(bundle, originals)
    tasks = bundle.manifest.tasks
    whole = [x.name for x in tasks if x.lossless]
    decoded = {x.name for x in tasks if not x.lossless and x.name not in originals}
    sets = []
    kept = [originals.get(name) or bundle[name].original for name in whole]
    coded = [adapter for name, adapter in originals.items() if name not in whole]
    if kept:
        lossless = [adapter for adapter in kept if adapter is not None]
        sets.append(align(lossless, bundle.base_model, lossless=True))
    if coded:
        exact = _exact(bundle, [adapter.name for adapter in coded])
        coded = traced(coded, progress or silent)
        sets.append(align(coded, bundle.base_model, lossless=False, exact=exact, base=base))
    if decoded:
        sets.append(decoded_set(bundle, decoded))
    if not sets:
        do = "Make a new one of adapters: hydraopt merge"
        raise UsageError(explain("the collection has no tasks", file=bundle.path, do=do))
    pieces = joined(sets, bundle.base_model)
    lost = lost_harm(bundle.manifest)
    notes = *(loaded.notes if loaded else ()), *pieces.notes, *lost
    return _Tasks(bundle, pieces, originals, notes)


def _exact(bundle: Bundle, names: Sequence[str]) -> list[str]:
    """Return the keys of tensors that are carried bit by bit now, which does not change."""
    blobs = bundle.manifest.blobs
    held = (i for name in names for i in bundle[name].entry.carried)
    return sorted({glob.escape(item.key) for i in held for item in blobs[i].items})


def _check_originals(bundle: Bundle, originals: Mapping[str, Adapter]) -> None:
    for name, adapter in originals.items():
        if name not in bundle:
            raise TaskNotFoundError(
                explain(
                    "no such task",
                    file=bundle.path,
                    got=repr(name),
                    do="Name an original after its task: TASK=PATH",
                )
            )
        added = bundle[name].entry.added
        if added is not None and digest_of(adapter) != added.digest:
            raise UsageError(
                explain(
                    "the adapter is not the one that was added",
                    adapter=name,
                    file=adapter.source,
                    got=f"hash {digest_of(adapter)}",
                    expected=f"{added.digest}, of {added.day}",
                    do="Give that file, or put this one in its place first: hydraopt add --replace",
                )
            )
        if added is None:
            _check_like(bundle[name], adapter)


def _check_like(task: TaskAdapter, adapter: Adapter) -> None:
    """Raise UsageError for an adapter that a task of the merge cannot have been made of."""
    factor, more = _UNLIKE
    stated = max(task.error, *task.tensor_errors.values(), 0.0)
    most = 0.0 if task.entry.lossless else factor * stated + more
    error = distance_from(task, adapter)
    if error > most:
        raise UsageError(
            explain(
                "the adapter is not the one that was merged",
                adapter=task.name,
                file=adapter.source,
                got="other bytes" if task.entry.lossless else f"a relative error of {error:.3g}",
                expected="the same" if task.entry.lossless else f"at most {most:.3g}",
                do="Give that file, or put this one in its place first: hydraopt add --replace",
            )
        )


def _check_output(path: AnyPath, output: StrPath | None) -> None:
    """Raise UsageError for an output that is of another kind, or cannot be written."""
    if output is None:
        return
    check_apart(output, [path])
    folder, target = is_folder(path), destination(output)
    if folder and isinstance(target, Path) and target.is_file():
        do = "Name a folder, or join the collection first"
        raise UsageError(explain("the output of a folder is a file", file=target, do=do))
    if not folder and as_folder(output):
        do = "Name a file, or split the collection first"
        raise UsageError(explain("the output of a file is a folder", file=target, do=do))
    if not folder:
        check_parent(target)


def _core_file(path: AnyPath) -> str | None:
    """Return the name of a folder's core file, which it keeps; None for a single file."""
    return Folder(path).place.name if is_folder(path) else None


def _solved(
    tasks: _Tasks, budget: Budget | None, options: MergeOptions, core_file: str | None
) -> tuple[Job, Draft | None]:
    """Solve all tasks over a new core, within the budget or at the previous price."""
    name, value = (budget.name, float(budget.limit)) if budget else (None, None)
    recipe = refresh_recipe(tasks.bundle.recipe, name, value, bool(tasks.decoded))
    restate = functools.partial(_restated, tasks=tasks)
    job = dataclasses.replace(Job.of(tasks.pieces, recipe, core_file), restate=restate)
    if budget is None or not tasks.pieces.contents:
        return _at_own_prices(tasks, job, options)
    return job, solve_budget(job, budget, options).draft


def _at_own_prices(tasks: _Tasks, job: Job, options: MergeOptions) -> tuple[Job, Draft | None]:
    """Solve all tasks at the previous price, except those that it does not fit."""
    if not tasks.pieces.contents:
        return job, None
    price = price_in(tasks.bundle, _GIVE_LIMIT)
    job = dataclasses.replace(job, pieces=dataclasses.replace(tasks.pieces, norm=price.norm))
    return job, solve_kept(job, price.price, options, _kept(tasks))


def _kept(tasks: _Tasks) -> dict[str, KeptError]:
    """Return the error to keep for tasks that had a limit of their own, by name.

    Such a task is recognised by the common price giving another error than the one it states.

    Coding again what the collection holds adds to its error: about half of that error at the price
    that it had; at a price of its own, an amount that makes the total a tenth larger.
    """
    kept = {}
    for task in tasks.bundle.manifest.tasks:
        stated = max(task.error, _LEAST_ERROR)
        if task.name in tasks.decoded:
            kept[task.name] = KeptError(stated * math.sqrt(MORE**2 - 1), 0.0, stated * MORE)
        elif not task.lossless:
            least = task.error / _COARSE if task.added else 0.0
            kept[task.name] = KeptError(stated, least, stated * MORE)
    return kept


def _restated(made: Manifest, tasks: _Tasks) -> Manifest:
    """Return the manifest with what is known of the tasks from before: history and errors.

    Errors are adjusted for tasks that were coded again.
    """
    old = {task.name: task for task in tasks.bundle.manifest.tasks}
    rows = tuple(dataclasses.replace(task, added=old[task.name].added) for task in made.tasks)
    whole = dataclasses.replace(made, tasks=rows)
    return against_originals(whole, tasks.bundle.manifest, tasks.decoded)


def _write(packed: PackedBundle, path: AnyPath, output: StrPath | None, force: bool) -> int:
    """Write a file or a folder, as the collection is, and return the bytes written.

    A folder's core keeps its name. The bytes are those of the core and the tasks, without the
    index.
    """
    if not is_folder(path):
        with nullcontext() if output is None else locked_if_there(output):
            return packed.write(destination(path if output is None else output))
    core = Folder(path).place
    here, target = output is None, path if output is None else place_of(output)
    files = written_folder(packed, target, core.name, True, force or here, here)
    return sum(file.size for file in files if file.path.name != INDEX_NAME)
