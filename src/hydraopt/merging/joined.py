"""Merge sets put together: some tasks from their originals, others as a bundle holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hydraopt.bundle.spec import ModuleEntry, TaskEntry
from hydraopt.bundle.tensors import TensorEntry
from hydraopt.compress.core import FactorReader
from hydraopt.errors import AlignmentError, explain
from hydraopt.linalg.shapes import Factors
from hydraopt.merging.align import MergeSet
from hydraopt.merging.dense import TensorMatrices

__all__ = ["JoinedFactors", "joined"]


@dataclass(frozen=True)
class JoinedFactors:
    """Factors of one module out of several sets, each with the number of its first content."""

    readers: tuple[tuple[int, FactorReader], ...]

    def __call__(self) -> Iterator[tuple[int, Factors]]:
        for first, read in self.readers:
            for content, factors in read():
                yield first + content, factors


def joined(sets: Sequence[MergeSet], base_model: str | None) -> MergeSet:
    """Return one merge set of the tasks of all sets, whose names differ.

    Raises AlignmentError where two mean different modules by one path.
    """
    firsts = [sum(x.contents for x in sets[:i]) for i in range(len(sets))]
    configs = [sum(len(x.configs) for x in sets[:i]) for i in range(len(sets))]
    modules = _modules(sets)
    index = {module.path: i for i, module in enumerate(modules)}
    matrices = _matrices(sets, firsts)
    tensors = sorted({entry for x in sets for entry in x.tensors}, key=TensorEntry.order)
    places = {entry: i for i, entry in enumerate(tensors)}
    pairs, readers = [], _readers(sets, firsts)
    for pieces, first, config in zip(sets, firsts, configs, strict=True):
        for task, carried in zip(pieces.tasks, pieces.carried, strict=True):
            entry = _moved(task, pieces, index, places)
            content = None if task.content is None else first + task.content
            entry = dataclasses.replace(entry, content=content, config=config + task.config)
            pairs.append((entry, carried))
    pairs.sort(key=lambda pair: pair[0].name)
    return MergeSet(
        modules,
        tuple(readers[module.path] for module in modules),
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


def _modules(sets: Sequence[MergeSet]) -> tuple[ModuleEntry, ...]:
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


def _moved(
    task: TaskEntry, pieces: MergeSet, index: dict[str, int], places: dict[TensorEntry, int]
) -> TaskEntry:
    """Return the entry with modules and tensors of the whole; errors move with them."""
    modules = sorted(
        (index[pieces.modules[i].path], error)
        for i, error in zip(task.modules, task.errors, strict=True)
    )
    coded = sorted(
        (places[pieces.tensors[i]], error)
        for i, error in zip(task.tensors, task.tensor_errors, strict=True)
    )
    return dataclasses.replace(
        task,
        modules=tuple(i for i, _ in modules),
        errors=tuple(error for _, error in modules),
        tensors=tuple(i for i, _ in coded),
        tensor_errors=tuple(error for _, error in coded),
    )


def _readers(sets: Sequence[MergeSet], firsts: Sequence[int]) -> dict[str, JoinedFactors]:
    """Return the factor readers of all sets by module path."""
    readers: dict[str, list[tuple[int, FactorReader]]] = {}
    for pieces, first in zip(sets, firsts, strict=True):
        for module, read in zip(pieces.modules, pieces.readers, strict=True):
            readers.setdefault(module.path, []).append((first, read))
    return {path: JoinedFactors(tuple(own)) for path, own in readers.items()}


def _matrices(sets: Sequence[MergeSet], firsts: Sequence[int]) -> dict[TensorEntry, TensorMatrices]:
    """Return the matrices of all sets by entry."""
    found: dict[TensorEntry, TensorMatrices] = {}
    for pieces, first in zip(sets, firsts, strict=True):
        for x in pieces.matrices:
            before = found.get(x.entry) or TensorMatrices(x.entry, (), (), None)
            contents = (*before.contents, *(first + content for content in x.contents))
            tensors = (*before.tensors, *x.tensors)
            found[x.entry] = TensorMatrices(x.entry, contents, tensors, x.own or before.own)
    return found
