"""Align: a list of adapters becomes one list of modules, each with the tasks that have it.

A merge records in its recipe what a bit finally cost. A task that is added alone therefore gets
the bytes that it would have been worth in that merge, whatever else was added before.

Adapters with the same content are one content, coded once, however many tasks point at it. Trained
tensors that are no low-rank products are coded too; integers, buffers and what the user names are
put aside to be carried bit by bit. A module that only some adapters have
is a module of those; nothing is dropped and nothing is filled up.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from hydraopt.adapters import Adapter, BaseTensors, LowRankModule, Problems, RawTensor
from hydraopt.bundle import (
    ModuleEntry,
    TaskAdapter,
    TaskEntry,
    TensorEntry,
    default_key,
    dumps,
    kept_ranks,
    stored_config,
)
from hydraopt.codec import Bases, DenseRecord, Drawn, Factors, KnownStart
from hydraopt.errors import (
    AdapterFormatError,
    AlignmentError,
    NumericalError,
    UsageError,
    explain,
)
from hydraopt.merging.tensors import (
    TensorMatrices,
    TensorsApart,
    bias_scales,
    check_returnable,
    collect,
    tensors_of,
)
from hydraopt.notes import Note, by_text

_DIGITS: Final = 6


@dataclass(frozen=True)
class FrozenCore:
    """Data that readers have before a task is coded, in step with the modules and tensors of a set.

    bases: the bases of each module.
    commons: the shared record of each coded tensor; None if its tasks share nothing.
    strict: whether the bytes of a task must account for all its numbers. Otherwise some numbers are
        free, as in a file of its own.
    """

    bases: tuple[Bases, ...]
    commons: tuple[DenseRecord | None, ...]
    strict: bool = False


@dataclass(frozen=True)
class MiddlePrice:
    """Final price of a merge.

    price: cost of error that a bit is worth to a task of the middle size and of importance 1.
    norm: the middle size, |dW| over everything that is coded.
    """

    price: float
    norm: float

    def to_json(self) -> dict[str, float]:
        """Return the values as stored in a recipe."""
        return {name: float(f"{value:.{_DIGITS}g}") for name, value in vars(self).items()}

    @classmethod
    def in_recipe(cls, recipe: Mapping[str, Any]) -> MiddlePrice | None:
        """Read the values from a recipe; return None if they are missing or invalid."""
        values = [recipe.get(name) for name in ("price", "norm")]
        for value in values:
            right = isinstance(value, float | int) and not isinstance(value, bool)
            if not (right and 0 < value < math.inf):  # type: ignore[operator]
                return None
        return cls(*map(float, values))  # type: ignore[arg-type]


HALVES: tuple[Literal["A", "B"], ...] = ("A", "B")


@dataclass(frozen=True)
class MergeSet:
    """Input of a merge: modules, tensors and tasks.

    modules: all modules, sorted by path.
    readers: the factors of each module on demand, parallel to ``modules``.
    tensors, matrices: the same for trained tensors that are coded and are not low-rank products.
    tasks: entries without errors, sorted by name; ``content`` indexes the coded streams.
    configs: distinct configs, in order of first use.
    carried: tensors to keep, one mapping per task.
    numbers: count of numbers in all inputs, duplicates included; their fp16 size is twice that.
    core: existing core against which the tasks are coded; nothing more is then shared.
    norm: the |dW| that the size of a task is relative to; None for the median of these tasks.
    digests: digest of all numbers of each content, (contents,); empty if unknown.
    starts: initial A of the modules of each content whose task has a start, by content and path.
    """

    modules: tuple[ModuleEntry, ...]
    readers: tuple[ModuleFactors, ...]
    tasks: tuple[TaskEntry, ...]
    configs: tuple[Mapping[str, Any], ...]
    carried: tuple[Mapping[str, RawTensor], ...]
    base_model: str | None
    numbers: int = 0
    notes: tuple[Note, ...] = ()
    tensors: tuple[TensorEntry, ...] = ()
    matrices: tuple[TensorMatrices, ...] = ()
    core: FrozenCore | None = None
    norm: float | None = None
    digests: tuple[str, ...] = ()
    starts: Mapping[int, Mapping[str, Drawn]] = field(default_factory=dict)

    @property
    def contents(self) -> int:
        """Number of coded streams."""
        return len({task.content for task in self.tasks if task.content is not None})

    @property
    def owners(self) -> list[str]:
        """First task of each coded stream, (contents,)."""
        first: dict[int, str] = {}
        for task in self.tasks:
            if task.content is not None:
                first.setdefault(task.content, task.name)
        return [first[content] for content in range(len(first))]

    def initial(self, path: str, contents: Container[int]) -> dict[int, Drawn | None]:
        """Return a module's initial A for those of the contents that have a start, by content.

        None if the start of a content does not reach the module.
        """
        return {x: own.get(path) for x, own in self.starts.items() if x in contents}

    @property
    def drawn(self) -> int:
        """Count of numbers that the starts of the contents use."""
        return sum(next(iter(x.values())).start.numbers for x in self.starts.values())

    @property
    def untraced(self) -> MergeSet:
        """Return the same set without starts."""
        tasks = tuple(replace(task, start=None) for task in self.tasks)
        return replace(self, tasks=tasks, starts={})

    @property
    def fp16_bytes(self) -> int:
        """Two bytes for each number in the inputs: what sizes in percent refer to."""
        return 2 * self.numbers


def _modules(contents: Sequence[Adapter]) -> dict[str, ModuleEntry]:
    """Return the module entries by path, sorted. All adapters must mean the same by a path."""
    entries: dict[str, tuple[ModuleEntry, str]] = {}
    for adapter in contents:
        for path, module in adapter.modules.items():
            entry = ModuleEntry.of(module)
            first, owner = entries.setdefault(path, (entry, adapter.name))
            if first != entry:
                raise AlignmentError(
                    explain(
                        "adapters have different modules under one path",
                        adapter=adapter.name,
                        module=path,
                        got=_describe(entry),
                        expected=f"{_describe(first)}, as in {owner!r}",
                        do="They belong to different base models; merge them apart",
                    )
                )
    return {path: entries[path][0] for path in sorted(entries)}


def _describe(entry: ModuleEntry) -> str:
    grouped = f", group {entry.group} of {entry.groups}" if entry.groups > 1 else ""
    return f"{entry.kind} of {entry.m} x {entry.n}{grouped} ({entry.layout})"


@dataclass(frozen=True)
class DecodedModule:
    """Module of a task as its bundle decodes it."""

    task: TaskAdapter
    path: str

    def factors(self) -> Factors:
        """Return B (m, k) with the scale inside and A (k, n)."""
        return self.task.factors()[self.path]


@dataclass(frozen=True)
class ModuleFactors:
    """Factors of one module of the contents that have it, by rising content."""

    contents: tuple[tuple[int, LowRankModule | DecodedModule], ...]

    def __call__(self) -> Iterator[tuple[int, Factors]]:
        return self.part(slice(None))

    def part(self, places: slice) -> Iterator[tuple[int, Factors]]:
        """Yield the factors of the contents at these places; the other contents are not read."""
        for content, module in self.contents[places]:
            yield content, Factors.of(*module.factors())


def _dtype(adapter: Adapter) -> str:
    counts = Counter[str]()
    for module in adapter.modules.values():
        counts[module.a.dtype] += math.prod(module.a.shape)
    return max(sorted(counts), key=counts.__getitem__) if counts else "F32"


def _task(
    adapter: Adapter,
    content: int | None,
    config: int,
    index: Mapping[str, int],
    entries: Sequence[ModuleEntry],
    lossless: bool,
    kept: Mapping[str, RawTensor],
    tensors: tuple[int, ...],
) -> TaskEntry:
    keys: dict[tuple[str, str], str] = {}
    for path in adapter.modules:
        for half in HALVES:
            key = adapter.peft_key(path, half)
            if key != default_key(entries[index[path]], half):
                keys[path, half] = key
    scales = bias_scales(adapter) if not lossless else {}
    kinds = {key: kind for key, kind in adapter.extra_kinds.items() if key in kept}
    return TaskEntry(
        adapter.name,
        config,
        content,
        adapter.format,
        adapter.base_model,
        adapter.numbers,
        _dtype(adapter),
        lossless,
        tuple(sorted(index[path] for path in adapter.modules)),
        tuple(0.0 for _ in adapter.modules),
        0.0,
        (),
        keys,
        scales,
        {key: kind for key, kind in kinds.items() if kind != "saved"},
        tuple(note.text for note in adapter.notes),
        dict(getattr(adapter.tensors, "metadata", {})) if lossless else {},
        tensors,
        tuple(0.0 for _ in tensors),
        ranks=None if lossless else kept_ranks(adapter),
        start=None if content is None else _start(adapter),
    )


def _contents(
    adapters: Sequence[Adapter], apart: Sequence[TensorsApart], lossless: bool
) -> tuple[list[int | None], list[Adapter], list[str]]:
    """Return the content of each adapter, the first adapter of each content, and its identity.

    The content is None for an adapter without coded data.
    """
    content_of: dict[str, int] = {}
    distinct: list[Adapter] = []
    numbers_of: list[int | None] = []
    for adapter, own in zip(adapters, apart, strict=True):
        if lossless or not _is_coded(adapter, own):
            numbers_of.append(None)
            continue
        # Configs may say of the same tensors that they are something else.
        kinds = tuple(adapter.extra_kinds.get(tensor, "saved") for tensor in own.coded)
        key = "/".join((adapter.content_hash(), *kinds))
        if key not in content_of:
            content_of[key] = len(distinct)
            distinct.append(adapter)
        numbers_of.append(content_of[key])
    return numbers_of, distinct, list(content_of)


def coded_of(adapters: Sequence[Adapter], exact: Sequence[str] = ()) -> list[str]:
    """Return the names of adapters with coded data, or none if everything is kept.

    exact: as in :func:`align`.
    """
    return [x.name for x in adapters if _is_coded(x, tensors_of(x, exact, False))]


def _is_coded(adapter: Adapter, own: TensorsApart) -> bool:
    return bool(adapter.modules or own.coded)


def _configs(
    adapters: Sequence[Adapter], lossless: bool
) -> tuple[tuple[Mapping[str, Any], ...], list[int]]:
    """Return the distinct configs to store, and for each adapter the index of its config."""
    stored = [x.config if lossless else stored_config(x) for x in adapters]
    texts = [dumps(config) for config in stored]  # Python takes 1 and true for equal
    distinct = dict(zip(reversed(texts), reversed(stored), strict=True))
    places = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    return tuple(distinct[text] for text in places), [places[text] for text in texts]


def align(
    adapters: Sequence[Adapter],
    base_model: str | None,
    *,
    lossless: bool,
    exact: Sequence[str] = (),
    base: BaseTensors | None = None,
) -> MergeSet:
    """Return the merge set of adapters that were read together (sorted by name, unique names).

    lossless: whether nothing is coded and every tensor of every adapter is carried.
    exact: patterns, with * and ?, of keys that are kept bit by bit.
    base: the base model's own tensors.

    Raises UsageError for no adapters, AlignmentError if two disagree about a module, and what
    :func:`check_returnable` raises, as a BatchError if several adapters have problems.
    """
    if not adapters:
        raise UsageError(explain("nothing to merge", got="no adapters", do="Name at least one"))
    ordered = sorted(adapters, key=lambda adapter: adapter.name)
    problems = Problems(len(ordered))
    for adapter in ordered:
        try:
            check_returnable(adapter, lossless=lossless)
        except (AdapterFormatError, NumericalError) as error:
            problems.add(error, adapter.source)
    problems.raise_any()
    apart = [tensors_of(adapter, exact, lossless) for adapter in ordered]
    numbers_of, distinct, digests = _contents(ordered, apart, lossless)
    entries = _modules(ordered)
    index = {path: i for i, path in enumerate(entries)}
    coded = collect(ordered, apart, numbers_of, base)
    configs, config_of = _configs(ordered, lossless)
    tasks = []
    for i, (adapter, content) in enumerate(zip(ordered, numbers_of, strict=True)):
        known = list(entries.values()), lossless, apart[i].kept, coded.of_adapter[i]
        tasks.append(_task(adapter, content, config_of[i], index, *known))
    readers = tuple(
        ModuleFactors(
            tuple((i, a.modules[path]) for i, a in enumerate(distinct) if path in a.modules)
        )
        for path in entries
    )
    return MergeSet(
        tuple(entries.values()),
        readers,
        tuple(tasks),
        configs,
        tuple(own.kept for own in apart),
        base_model,
        sum(adapter.numbers for adapter in ordered),
        tuple(by_text((a.name, note) for a in ordered for note in a.notes)),
        coded.entries,
        coded.matrices,
        digests=tuple(digests),
        starts={i: x for i, x in enumerate(map(_initial, distinct)) if x},
    )


def _initial(adapter: Adapter) -> dict[str, Drawn]:
    """Return the initial A of the modules whose initial A is known, by path."""
    return {path: x.initial for path, x in adapter.modules.items() if x.initial is not None}


def _start(adapter: Adapter) -> KnownStart | None:
    return next((x.start for x in _initial(adapter).values()), None)


def joined(sets: Sequence[MergeSet], base_model: str | None) -> MergeSet:
    """Return one merge set of the tasks of all sets, whose names differ.

    Raises AlignmentError where two mean different modules by one path.
    """
    firsts = [sum(x.contents for x in sets[:i]) for i in range(len(sets))]
    configs = [sum(len(x.configs) for x in sets[:i]) for i in range(len(sets))]
    modules = _joined_modules(sets)
    index = {module.path: i for i, module in enumerate(modules)}
    matrices = _joined_matrices(sets, firsts)
    tensors = sorted(matrices, key=TensorEntry.order)
    places = {entry: i for i, entry in enumerate(tensors)}
    factors: dict[str, list[tuple[int, LowRankModule | DecodedModule]]] = {}
    pairs: list[tuple[TaskEntry, Mapping[str, RawTensor]]] = []
    for pieces, first, config in zip(sets, firsts, configs, strict=True):
        for module, read in zip(pieces.modules, pieces.readers, strict=True):
            held = ((first + content, x) for content, x in read.contents)
            factors.setdefault(module.path, []).extend(held)
        at_module = {i: index[module.path] for i, module in enumerate(pieces.modules)}
        at_tensor = {i: places[entry] for i, entry in enumerate(pieces.tensors)}
        for task, carried in zip(pieces.tasks, pieces.carried, strict=True):
            content = None if task.content is None else first + task.content
            entry = replace(task, content=content, config=config + task.config)
            pairs.append((moved(entry, at_module, at_tensor), carried))
    pairs.sort(key=lambda pair: pair[0].name)
    return MergeSet(
        modules,
        tuple(ModuleFactors(tuple(factors[module.path])) for module in modules),
        tuple(entry for entry, _ in pairs),
        tuple(config for x in sets for config in x.configs),
        tuple(carried for _, carried in pairs),
        base_model,
        sum(x.numbers for x in sets),
        tuple(note for x in sets for note in x.notes),
        tuple(tensors),
        tuple(matrices[entry] for entry in tensors),
        starts={
            first + content: initial
            for x, first in zip(sets, firsts, strict=True)
            for content, initial in x.starts.items()
        },
    )


def moved(task: TaskEntry, modules: Mapping[int, int], tensors: Mapping[int, int]) -> TaskEntry:
    """Return the entry with other indices of its modules and tensors; errors move with them."""
    at = sorted((modules[i], x) for i, x in zip(task.modules, task.errors, strict=True))
    coded = sorted((tensors[i], x) for i, x in zip(task.tensors, task.tensor_errors, strict=True))
    return replace(
        task,
        modules=tuple(i for i, _ in at),
        errors=tuple(error for _, error in at),
        tensors=tuple(i for i, _ in coded),
        tensor_errors=tuple(error for _, error in coded),
    )


def _joined_modules(sets: Sequence[MergeSet]) -> tuple[ModuleEntry, ...]:
    entries: dict[str, ModuleEntry] = {}
    for module in (module for x in sets for module in x.modules):
        first = entries.setdefault(module.path, module)
        if first != module:
            raise AlignmentError(
                explain(
                    "an original has another module than the bundle",
                    module=module.path,
                    got=f"{module.m} x {module.n} ({module.layout})",
                    expected=f"{first.m} x {first.n} ({first.layout})",
                    do="Give the adapters that the bundle was made of",
                )
            )
    return tuple(entries[path] for path in sorted(entries))


def _joined_matrices(
    sets: Sequence[MergeSet], firsts: Sequence[int]
) -> dict[TensorEntry, TensorMatrices]:
    """Return the matrices of all sets by entry."""
    found: dict[TensorEntry, TensorMatrices] = {}
    for pieces, first in zip(sets, firsts, strict=True):
        for x in pieces.matrices:
            before = found.get(x.entry) or TensorMatrices(x.entry, (), (), None)
            contents = (*before.contents, *(first + content for content in x.contents))
            tensors = (*before.tensors, *x.tensors)
            found[x.entry] = TensorMatrices(x.entry, contents, tensors, x.own or before.own)
    return found
