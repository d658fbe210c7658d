"""A job from adapters to a written bundle: its drafts, what they hold, and their bytes.

A Job is what is put together; with the draft that the search found it becomes a manifest and a
payload, whose size is known before they are written; and Written is what a user is told.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from hydraopt.adapters import Adapter, Adapters, check_same_base, read_adapters
from hydraopt.bundle import (
    Carried,
    Harm,
    Manifest,
    PackedBundle,
    TaskEntry,
    most_drawn,
    pack_bundle,
    pack_carried,
    size_apart,
)
from hydraopt.codec import Array, most_numbers, sizes_of
from hydraopt.errors import BudgetError, NumericalError, UsageError, explain
from hydraopt.files import AnyPath, StrPath, origin_of
from hydraopt.merging.alignment import MergeSet, MiddlePrice
from hydraopt.merging.limits import Budget, HarmLimit, Recipe, Size
from hydraopt.merging.weights import Counting
from hydraopt.notes import Note

_LEG = 4
"""Parts into which a pass with a course splits the remaining modules to correct its price."""
_FAR = 0.5
"""Largest correction of the logarithm of a price."""


@dataclass(frozen=True)
class Draft:
    """Result of one coding pass.

    shared, streams: coded bytes; those of a pass lie in a file.
    errors, energies (contents, items): squared norms of dW - dW~ and of dW, zero if a content lacks
        the item.
    forms: number of records of each form.
    price: price of a bit; the average one if it was corrected during the pass.
    weights (contents, items): weight of a unit of squared error in the pass.
    counting: conversion of errors into errors of tasks.
    middle: the price for a task of the middle size.
    numbers: count of numbers that the streams stand for.
    drawn: numbers that the starts of the tasks draw.
    strict: each stream must account for its numbers by its own bytes, without the free allowance of
        a file.
    """

    shared: bytes
    streams: Sequence[bytes]
    errors: Array
    energies: Array
    forms: dict[str, int]
    price: float
    weights: Array
    counting: Counting
    middle: MiddlePrice | None = None
    numbers: int = 0
    drawn: int = 0
    strict: bool = False

    @classmethod
    def empty(cls, weights: Array, counting: Counting) -> Draft:
        """Return a draft in which nothing is coded.

        Its errors and price take as many bytes in a manifest as those of a pass.
        """
        errors = np.random.default_rng(0).random(weights.shape)
        ones, middle = np.ones(weights.shape), MiddlePrice(1.23456e-08, 1.23456)
        streams = (b"",) * len(weights)
        return cls(b"", streams, errors, ones, {}, math.inf, weights, counting, middle)

    def with_distinct_streams(self) -> Draft:
        """Return this draft with a few bytes in each stream, so that no two become one in a file.

        Each stream then has an entry of its own in the header, as those of a pass have.
        """
        streams = tuple(b"%d" % content for content in range(len(self.streams)))
        return replace(self, streams=streams)

    @property
    def coded_bytes(self) -> int:
        return len(self.shared) + sum(sizes_of(self.streams))

    @property
    def readable(self) -> bool:
        """True if readers accept the draft.

        Readers refuse too many numbers per byte, as an attempt to fill the memory.
        """
        return self.numbers <= self.most_numbers and self.drawn <= self.most_drawn

    @property
    def most_numbers(self) -> int:
        """Largest count of numbers that readers accept for this many bytes."""
        return most_numbers(self.coded_bytes) - (most_numbers(0) if self.strict else 0)

    @property
    def most_drawn(self) -> int:
        """Return the same for the numbers of starts."""
        return most_drawn(self.coded_bytes) - (most_drawn(0) if self.strict else 0)

    def relative_errors(self) -> Array:
        """Relative error of each content, (contents,), everything that is coded counted."""
        return self.counting.errors(self.errors)


@dataclass(frozen=True)
class TaskTrial:
    """Result of a round for one task.

    size: bytes, including the task's share of the shared core.
    error: relative Frobenius error.
    likely: share of answers that change.
    kl: nats an answer.
    counted: harm as it is compared with the limit, see
        :func:`hydraopt.merging.harmlimit.counted_harm`.
    """

    size: float
    error: float
    likely: float
    kl: float
    counted: float


@dataclass(frozen=True)
class Solution:
    """Draft that keeps a limit.

    passes: number of coding passes.
    harms: measured harm of the draft, by task.
    chosen: for a limit on harm, the result for each task.
    trials: for a limit on harm, all rounds of each task, by falling size.
    """

    draft: Draft
    passes: int
    harms: Mapping[str, Harm] = field(default_factory=dict)
    chosen: Mapping[str, TaskTrial] = field(default_factory=dict)
    trials: Mapping[str, tuple[TaskTrial, ...]] = field(default_factory=dict)


class UnreadableError(NumericalError):
    """A draft that readers would refuse: it has too few bytes, so a lower price mends it."""

    def __init__(self, draft: Draft, adapter: str | None = None) -> None:
        self.draft = draft
        size = draft.coded_bytes
        count, most, of = draft.numbers, draft.most_numbers, "numbers"
        if count <= most:
            count, most, of = draft.drawn, draft.most_drawn, "numbers of starts"
        super().__init__(
            explain(
                "the streams would stand for more numbers than a reader takes",
                adapter=adapter,
                got=f"{count:,} {of} in {size:,} bytes",
                expected=f"at most {most:,}",
                do="Ask for a larger size, or a smaller error or limit on harm, or use --lossless",
            )
        )


@dataclass(frozen=True)
class Course:
    """Target of a pass, and the data to steer it there.

    bits (modules,): bits that the planner expects of each module at the price at the start.
    slope: slope of log bits over log price.
    wanted: total bits that the pass should take.
    """

    bits: Array
    slope: float
    wanted: float

    def average(self, price: float, planned: float) -> float:
        """Return the one price at which the planner would have expected ``planned`` bits."""
        expected = float(self.bits.sum())
        if not (planned > 0 and expected > 0):
            return price
        return price * math.exp(math.log(planned / expected) / self.slope)

    def mended(self, price: float, done: int, planned: float, taken: float) -> float:
        """Return the price for the modules from ``done`` on, if those before took ``taken`` bits.

        planned: bits that the planner expected of these, at the prices that they really had.
        """
        rest = float(self.bits[done:].sum())
        if not (planned > 0 and rest > 0):
            return price
        room = max(self.wanted - taken, 1.0) / (taken / planned * rest)
        return price * math.exp(float(np.clip(math.log(room) / self.slope, -_FAR, _FAR)))


def legs_of(modules: int) -> Iterator[range]:
    """Yield long legs first and single modules last, whose misses are those of the pass."""
    start = 0
    while start < modules:
        stop = start + max((modules - start) // _LEG, 1)
        yield range(start, stop)
        start = stop


_PERCENT: Final = 100
"""Size in bytes up to which a percentage was probably meant."""


@dataclass(frozen=True)
class LoadedAdapters:
    """Adapters that belong together, and the base model that they state.

    adapters: first those that were already read, in their order, which some methods of the
        literature depend on; then the others, sorted by name.
    notes: messages for the user on the reading.
    """

    adapters: list[Adapter]
    base_model: str | None
    notes: tuple[Note, ...]


def load(
    adapters: StrPath | Iterable[StrPath | Adapter], same_base: bool, alpha: float | None
) -> LoadedAdapters:
    """Read adapters from paths, globs and NAME=PATH strings; keep those that are read already.

    Raises UsageError for two of one name, and what :func:`hydraopt.read_adapters` raises.
    """
    if isinstance(adapters, str | os.PathLike):
        adapters = [adapters]
    notes = adapters.notes if isinstance(adapters, Adapters) else ()
    items = list(adapters)
    ready = [item for item in items if isinstance(item, Adapter)]
    paths = [item for item in items if not isinstance(item, Adapter)]
    if paths:
        read = read_adapters(paths, same_base=same_base, alpha=alpha)
        ready, notes = ready + read, notes + read.notes
    names = sorted(adapter.name for adapter in ready)
    if len(set(names)) != len(names):
        raise UsageError(explain("two adapters have one name", got=names, do="Rename one"))
    by_name = sorted(ready, key=lambda adapter: adapter.name)
    return LoadedAdapters(ready, check_same_base(by_name, same_base), notes)


def inputs_of(adapters: Iterable[Adapter]) -> list[AnyPath]:
    """Return the paths that the adapters were read from; for a copy, the address of the original.

    The path is a folder where a config belongs to the weights, otherwise a file.
    """
    folders = {"peft", "mlx"}
    inputs: list[AnyPath] = []
    for adapter in adapters:
        source = adapter.source
        if isinstance(source, Path) and source.is_file():
            place = source.parent if adapter.format in folders else source
            inputs.append(origin_of(place) or place)
    return inputs


def placeholder_harms(names: Iterable[str]) -> dict[str, Harm]:
    """Return stand-ins that take as many bytes in a manifest as what will be measured, by task.

    They may take a few more, because small numbers are written with more digits.
    """
    harms = {}
    rng = np.random.default_rng(0)
    for name in names:
        changed, likely, kl = int(rng.integers(100, 256)), *rng.uniform(1e-4, 1e-3, 2)
        harms[name] = Harm(changed, 256, float(likely), float(kl), True)
    return harms


@dataclass(frozen=True)
class Job:
    """Input of a bundle: pieces, the carried ones among them, and the manifest's recipe.

    harms: measured harm by task, for the manifest.
    around: bytes of a file without the tasks, if only the tasks' bytes are to be counted.
    core_file: name of the core file if core and tasks go to separate files, which take more bytes
        than a single file; otherwise None.
    restate: returns the manifest to write, if its errors are not those of the draft.
    """

    pieces: MergeSet
    carried: Carried
    recipe: Recipe
    harms: Mapping[str, Harm] = field(default_factory=dict)
    around: int = 0
    core_file: str | None = None
    restate: Callable[[Manifest], Manifest] | None = None

    @classmethod
    def of(cls, pieces: MergeSet, recipe: Recipe, core_file: str | None = None) -> Job:
        """Return the job of these pieces; carried tensors are coded, without loss."""
        names = [task.name for task in pieces.tasks]
        tensors = dict(zip(names, pieces.carried, strict=True))
        return cls(pieces, pack_carried(tensors), recipe, core_file=core_file)

    def manifest(self, draft: Draft | None) -> Manifest:
        """Return the manifest, with the errors of a draft, or zeros without one."""
        tasks: list[TaskEntry] = []
        for task in self.pieces.tasks:
            changes: dict[str, Any] = {"carried": self.carried.tasks.get(task.name, ())}
            if draft is not None and task.content is not None:
                changes.update(self._errors(draft, task))
            if task.name in self.harms:
                changes["harm"] = self.harms[task.name]
            tasks.append(dataclasses.replace(task, **changes))
        price = {}
        # With a core, or a size to be relative to, the price is the one that the recipe has.
        fresh = self.pieces.core is None and self.pieces.norm is None
        if fresh and draft is not None and draft.middle:
            price = draft.middle.to_json()
        manifest = Manifest(
            self.pieces.modules,
            tuple(tasks),
            tuple(self.carried.blobs),
            tuple(self.pieces.configs),
            {**self.recipe, **price},
            self.pieces.base_model,
            self.pieces.tensors,
        )
        return manifest if self.restate is None else self.restate(manifest)

    def _errors(self, draft: Draft, task: TaskEntry) -> dict[str, Any]:
        """Return the errors of a task's entry.

        The error of the whole is that of dW, or of the tensors for a task without dW.
        """
        content, modules = task.content, len(self.pieces.modules)
        assert content is not None
        errors, energies = draft.errors[content], draft.energies[content]
        ratios = np.sqrt(errors / np.where(energies > 0, energies, 1.0))
        if draft.counting.norms[content] > 0:
            error = draft.counting.error_of_changes(content, ratios)
        else:
            part = slice(modules) if task.modules else slice(modules, None)
            total = energies[part].sum()
            error = math.sqrt(errors[part].sum() / (total if total > 0 else 1.0))
        return {
            "errors": tuple(ratios[list(task.modules)].tolist()),
            "tensor_errors": tuple(ratios[[modules + i for i in task.tensors]].tolist()),
            "error": error,
        }

    def packed(self, draft: Draft | None, manifest: Manifest | None = None) -> PackedBundle:
        """Return the bundle of a draft.

        manifest: if its errors are not those of the draft.
        """
        return pack_bundle(manifest or self.manifest(draft), *_payload(draft), self.carried.data)

    def size(self, draft: Draft | None, manifest: Manifest | None = None) -> int:
        """Return the bytes of all that is written of a draft; for a folder an upper bound.

        Arguments as of :meth:`packed`. See size_apart for the bound.
        """
        if self.core_file is None:
            return self.packed(draft, manifest).size
        manifest_bytes = manifest or self.manifest(draft)
        return size_apart(self.core_file, manifest_bytes, *_payload(draft), self.carried.data)

    def value(self, budget: Budget, draft: Draft) -> float:
        """Return a draft's value under ``budget``: bytes of all files, or an error of the tasks."""
        if isinstance(budget, Size):
            return float(self.size(draft) - self.around)
        return budget.of(self.task_errors(draft))

    def task_errors(self, draft: Draft) -> Array:
        """Relative Frobenius errors of the tasks that are coded, (tasks,)."""
        coded = [task.content for task in self.pieces.tasks if task.content is not None]
        errors: Array = draft.relative_errors()[coded]
        return errors

    def check_room(self, budget: Budget | HarmLimit) -> None:
        """Raise BudgetError for a size without room for what surrounds coded parts.

        It is checked before any long work. A size that is a little larger may be too small as well.
        """
        if isinstance(budget, Size) and self.pieces.contents:
            items = len(self.pieces.modules) + len(self.pieces.tensors)
            counting = Counting.even(self.pieces.contents, len(self.pieces.modules), items)
            self.check_least(budget, Draft.empty(counting.gains, counting))

    def around_coded(self, budget: Size, empty: Draft) -> int:
        """Return the bytes of all but coded parts, if every stream differs from the others.

        empty: a draft without any. Raises BudgetError for a size with no room for more.
        """
        self.check_least(budget, empty)
        return int(self.value(budget, empty.with_distinct_streams()))

    def check_least(self, budget: Size, empty: Draft) -> None:
        """Raise BudgetError for a size with no room for anything coded; empty: a draft without."""
        least = int(self.value(budget, empty))
        if budget.limit <= least:
            raise self.too_small(budget, least)

    def manifest_within(self, limit: Budget | HarmLimit | None, draft: Draft | None) -> Manifest:
        """Return the manifest of a draft. Raises BudgetError if a size would be exceeded."""
        manifest = self.manifest(draft)
        if isinstance(limit, Size):
            size = self.size(draft, manifest) - self.around
            if size > limit.limit:
                raise self.too_small(limit, size)
        return manifest

    def too_small(self, budget: Size, least: int) -> BudgetError:
        """Return the error of a size below the ``least`` bytes that the file can have."""
        kept = sum(sizes_of(self.carried.data))
        return BudgetError(
            explain(
                "the size cannot be kept",
                got=f"{least:,} bytes at least, {kept:,} of them carried bit by bit "
                "(what --exact names, integers, buffers)",
                expected=f"at most {budget.limit:,} bytes",
                do="Ask for more, or merge fewer adapters"
                if budget.limit > _PERCENT
                else "A size without a unit is in bytes; write 5% for a share of the inputs",
            )
        )


def _payload(draft: Draft | None) -> tuple[bytes, Sequence[bytes]]:
    return (b"", ()) if draft is None else (draft.shared, draft.streams)


@dataclass(frozen=True, kw_only=True)
class Written:
    """Written bundle.

    path, size: the file, and its bytes, everything counted.
    fp16_bytes: two bytes for each number in the inputs.
    errors: relative Frobenius error of each task.
    notes: messages for the user.
    """

    path: AnyPath
    size: int
    fp16_bytes: int
    errors: Mapping[str, float]
    seconds: float
    notes: tuple[Note, ...]

    @property
    def fraction(self) -> float:
        """Size as a fraction of the inputs in fp16."""
        return self.size / self.fp16_bytes
