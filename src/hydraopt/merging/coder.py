"""Encode an adapter against an existing core, which does not change.

The result depends on the core, the price (or the limit) and the adapter alone, so it is the same
whatever was added before. What the core's tables do not name cannot be coded over it: modules are
refused, other tensors are carried bit by bit.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from hydraopt.adapters import Adapter, BaseTensors, base_key
from hydraopt.bundle import (
    Added,
    Bundle,
    Harm,
    Manifest,
    ModuleEntry,
    TaskEntry,
    TaskPiece,
    pack_bundle,
)
from hydraopt.codec import Bases, DenseRecord
from hydraopt.errors import AlignmentError, BaseMismatchError, UsageError, explain
from hydraopt.files import file_hash
from hydraopt.merging.alignment import FrozenCore, MergeSet, MiddlePrice, align
from hydraopt.merging.finish import solved
from hydraopt.merging.job import Draft, Job, UnreadableError
from hydraopt.merging.limits import Limit, forms_in
from hydraopt.merging.options import DEFAULT_MEASURE, Look, MergeOptions
from hydraopt.merging.pipeline import notes_of
from hydraopt.merging.weights import Sensitivity, sensed
from hydraopt.merging.workers import Engine
from hydraopt.notes import Note
from hydraopt.progress import Progress


def check_fits(core: Bundle, adapter: Adapter, same_base: bool) -> None:
    """Raise an error for an adapter that does not fit the core, or for a bundle without one.

    Raises BaseMismatchError for another base model, and UsageError without a core.
    """
    check_has_core(core)
    ours = core.base_model
    names = [base_key(name) if name else None for name in (adapter.base_model, ours)]
    if names[0] != names[1] and not same_base:
        raise BaseMismatchError(
            explain(
                "the adapter belongs to another base model",
                adapter=adapter.name,
                got=adapter.base_model or "(not stated)",
                expected=ours or "(not stated)",
                do="If it is the same one under another name, say so: --same-base",
            )
        )


def check_modules(core: Bundle, adapter: Adapter) -> None:
    """Raise AlignmentError for a module whose path the core lacks."""
    known = {module.path for module in core.manifest.modules}
    for path in sorted(adapter.modules):
        if path not in known:
            raise no_such_module(core, adapter, path)


def no_such_module(
    core: Bundle, adapter: Adapter, path: str, got: str | None = None, expected: str | None = None
) -> AlignmentError:
    """Return the error for a module that the core lacks, or has with another kind or shape.

    got, expected: kind and shape.
    """
    return AlignmentError(
        explain(
            "the core has no such module",
            adapter=adapter.name,
            file=core.path,
            module=path,
            got=got,
            expected=expected,
            do="Merge all adapters anew, this one with them",
        )
    )


def check_has_core(bundle: Bundle) -> None:
    """Raise UsageError for what a method of the literature made."""
    if "method" in bundle.recipe:
        raise UsageError(
            explain(
                "what a method of the literature made has no core",
                file=bundle.path,
                got=f"method {bundle.recipe['method']}",
                do="Run the method on all adapters anew",
            )
        )


def keeps_all(limit: Limit, core: Bundle) -> bool:
    """Return whether adapters are kept bit by bit over this core: on request, or as its own are."""
    free = limit.name is None
    return limit.lossless or (free and core.recipe.get("limit") == "lossless")


def price_in(bundle: Bundle, do: str) -> MiddlePrice:
    """Return the price that the bundle's merge arrived at.

    Raises UsageError, with ``do`` as advice, if its recipe states none.
    """
    price = MiddlePrice.in_recipe(bundle.recipe)
    if price is None:
        raise UsageError(
            explain(
                "the collection does not say at which price it was made", file=bundle.path, do=do
            )
        )
    return price


def options_in(
    recipe: Mapping[str, Any], workers: int | Engine | None, progress: Progress | None
) -> MergeOptions:
    """Return the options of a merge with the recipe's measure and forms, or the default ones.

    Raises UsageError for an unknown measure.
    """
    measure = recipe.get("measure")
    return MergeOptions(
        measure=measure if isinstance(measure, str) else DEFAULT_MEASURE,
        forms=forms_in(recipe),
        workers=workers,
        progress=progress,
    )


_DIGITS: Final = 16


@dataclass(frozen=True)
class AddedTask:
    """Task that was added.

    error: relative Frobenius error.
    own_bytes: bytes of its stream and of its carried tensors.
    fp16_bytes: fp16 bytes of the adapter.
    """

    name: str
    error: float
    own_bytes: int
    fp16_bytes: int
    forms: Mapping[str, int]
    harm: Harm | None


@dataclass(frozen=True)
class EncodedTask:
    """A coded adapter. notes: what a user should know."""

    piece: TaskPiece
    added: AddedTask
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class _Selection:
    """Selection to be coded, its modules and tensors of the core, and notes for the user."""

    pieces: MergeSet
    modules: tuple[int, ...]
    tensors: tuple[int, ...]
    notes: tuple[Note, ...] = ()


@dataclass
class Coder:
    """Encoder of adapters, one by one, against the core of an open bundle.

    options: as of a merge; the limit is each adapter's. The measure and the forms are the core's,
        and nothing is trained.
    base: the base model's tensors, if the core has differences from them.

    Raises UsageError for patterns of tensors to keep, if all are kept.
    """

    bundle: Bundle
    options: MergeOptions = field(default_factory=MergeOptions)
    base: BaseTensors | None = None

    def __post_init__(self) -> None:
        if self.options.exact and self._keeps_all:
            got = f"exact {', '.join(self.options.exact)}"
            raise UsageError(explain("all tensors are kept bit by bit already", got=got))

    @property
    def _keeps_all(self) -> bool:
        return keeps_all(self.options.limit, self.bundle)

    @functools.cached_property
    def _sensitivity(self) -> Sensitivity:
        """Sensitivities of all adapters, which are measured when the first one is encoded."""
        return sensed(self.options.look.sensitivity)

    def encode(self, adapter: Adapter, day: str) -> EncodedTask:
        """Encode the adapter as a task.

        day: date for its history.

        Raises UsageError where neither a price nor a limit is known, BaseMismatchError for another
        base model, AlignmentError for a module that the core lacks, BudgetError for a limit that
        cannot be met, and what align raises.
        """
        if self._keeps_all:
            return self._encoded(adapter, self._whole(adapter), None, day)
        planned = self._planned(adapter)
        job = Job.of(planned.pieces, {})
        around = Manifest(planned.pieces.modules, (), (), (), {}, None, planned.pieces.tensors)
        job = dataclasses.replace(job, around=pack_bundle(around, b"", (), ()).size)
        draft = None
        if planned.pieces.contents:
            job, draft = self._readable(job, adapter)
        return self._encoded(adapter, planned, (job, draft), day)

    def _planned(self, adapter: Adapter) -> _Selection:
        """Select what is coded of an adapter over this core."""
        known = {entry: i for i, entry in enumerate(self.bundle.manifest.tensors)}
        model, exact = self.bundle.base_model, list(self.options.exact)
        pieces = align([adapter], model, lossless=False, exact=exact, base=self.base)
        foreign = [entry.key for entry in pieces.tensors if entry not in known]
        notes: tuple[Note, ...] = ()
        if foreign:
            exact += [glob.escape(key) for key in foreign]
            pieces = align([adapter], model, lossless=False, exact=exact, base=self.base)
            more = f" and {len(foreign) - 1} more tensors" if len(foreign) > 1 else ""
            text = (
                f"{adapter.name}: {foreign[0]}{more} carried bit by bit, because the core has no "
                "such coded tensor (or needs --base for it)"
            )
            notes = (Note("carried", text, adapter.name),)
        modules = [self._index_of(adapter, entry) for entry in pieces.modules]
        order = sorted(range(len(modules)), key=modules.__getitem__)
        tensors = [known[entry] for entry in pieces.tensors]
        turned = sorted(range(len(tensors)), key=tensors.__getitem__)
        price = MiddlePrice.in_recipe(self.bundle.recipe)
        where = tuple(sorted(modules)), tuple(sorted(tensors))
        pieces = dataclasses.replace(
            pieces,
            modules=tuple(pieces.modules[i] for i in order),
            readers=tuple(pieces.readers[i] for i in order),
            tensors=tuple(pieces.tensors[i] for i in turned),
            matrices=tuple(pieces.matrices[i] for i in turned),
            core=FrozenCore(tuple(map(self._bases, where[0])), tuple(map(self._common, where[1]))),
            norm=price.norm if price else None,
        )
        return _Selection(pieces, *where, notes)

    def _bases(self, module: int) -> Bases:
        return self.bundle.bases(module)

    def _common(self, tensor: int) -> DenseRecord | None:
        return self.bundle.common(tensor)

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        """Index of each module of the core, by path."""
        return {module.path: i for i, module in enumerate(self.bundle.manifest.modules)}

    def _index_of(self, adapter: Adapter, entry: ModuleEntry) -> int:
        """Return the index of the core's module that equals the entry. Raises AlignmentError."""
        at = self._places.get(entry.path)
        if at is not None and self.bundle.manifest.modules[at] == entry:
            return at
        ours = self.bundle.manifest.modules[at] if at is not None else None
        raise no_such_module(
            self.bundle,
            adapter,
            entry.path,
            f"{entry.kind} of {entry.m} x {entry.n} ({entry.layout})",
            f"{ours.kind} of {ours.m} x {ours.n} ({ours.layout})" if ours else None,
        )

    def _whole(self, adapter: Adapter) -> _Selection:
        """Select an adapter to be kept bit by bit. Modules that the core lacks cause no note."""
        pieces = align([adapter], self.bundle.base_model, lossless=True)
        known = {module: i for i, module in enumerate(self.bundle.manifest.modules)}
        listed = [known.get(entry) for entry in pieces.modules]
        modules = tuple(sorted(i for i in listed if i is not None))
        return _Selection(pieces, modules if len(modules) == len(listed) else (), ())

    def _readable(self, job: Job, adapter: Adapter) -> tuple[Job, Draft]:
        """Solve as :meth:`_solved` does, with a result that readers accept.

        A file has some numbers free; but all its tasks must be readable, whatever tasks it will
        hold. Coarser codings may be readable where finer ones are not, so none is left out at
        first.

        Raises UnreadableError.
        """
        try:
            found = self._solved(job, adapter)
            if dataclasses.replace(found[1], strict=True).readable:
                return found
            return self._solved(_strictly(job), adapter)
        except UnreadableError as error:
            raise UnreadableError(error.draft, adapter.name) from None

    def _solved(self, job: Job, adapter: Adapter) -> tuple[Job, Draft]:
        """Return the draft that meets the limit, or the one at the collection's own price.

        Returns also the job with its measurements.
        """
        options = options_in(self.bundle.recipe, self.options.workers, self.options.progress)
        own = {k: x for k, x in self._sensitivity.items() if k == adapter.name}
        look = Look(judge=self.options.look.judge, sensitivity=own)
        budget = self.options.limit.budget(job.pieces.fp16_bytes)
        limit = self._price() if budget is None else budget
        job, solution = solved(job, limit, dataclasses.replace(options, look=look))
        job.manifest_within(budget, solution.draft)
        return job, solution.draft

    def _price(self) -> float:
        """Return the price of a bit that the collection's merge arrived at."""
        errors = [task.error for task in self.bundle.manifest.tasks if not task.lossless]
        mean = f"; its tasks have {sum(errors) / len(errors):.3g} in the mean" if errors else ""
        do = f"Give --size, --max-error or --harm of each adapter{mean}"
        return price_in(self.bundle, do).price

    def _encoded(
        self,
        adapter: Adapter,
        planned: _Selection,
        coded: tuple[Job, Draft | None] | None,
        day: str,
    ) -> EncodedTask:
        job, draft = coded or (Job.of(planned.pieces, {}), None)
        manifest = job.manifest(draft)
        entry: TaskEntry = dataclasses.replace(
            manifest.tasks[0],
            modules=planned.modules,
            errors=manifest.tasks[0].errors if planned.modules else (),
            tensors=planned.tensors,
            added=Added(day, digest_of(adapter)),
        )
        piece = TaskPiece(
            entry,
            planned.pieces.configs[0],
            draft.streams[0] if draft else b"",
            manifest.blobs,
            tuple(job.carried.data),
        )
        limit = self.options.limit.budget(2 * adapter.numbers) if coded else None
        notes = (*planned.pieces.notes, *planned.notes, *notes_of(manifest, limit))
        own = len(piece.stream) + sum(map(len, piece.carried))
        forms = draft.forms if draft else {}
        added = AddedTask(entry.name, entry.error, own, 2 * adapter.numbers, forms, entry.harm)
        return EncodedTask(piece, added, notes)


def _strictly(job: Job) -> Job:
    """Return the job with the requirement that the task's own bytes warrant all its numbers.

    A start stands for many, so there is none.
    """
    core = job.pieces.core
    assert core is not None
    strict = dataclasses.replace(core, strict=True)
    return dataclasses.replace(job, pieces=dataclasses.replace(job.pieces, core=strict).untraced)


def digest_of(adapter: Adapter) -> str:
    """Return 16 hex digits of the sha256 of the adapter's tensor file, or of its content.

    The content is used if the adapter has no file.
    """
    if isinstance(adapter.source, Path) and adapter.source.is_file():
        return file_hash(adapter.source)[:_DIGITS]
    return adapter.content_hash()[:_DIGITS]


def today() -> str:
    """Return today's date, ISO, in UTC."""
    return datetime.now(UTC).date().isoformat()
