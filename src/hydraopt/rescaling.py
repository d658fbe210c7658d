"""Rescale: a draft whose parts have other coefficients than the encoder fitted.

A coefficient is a whole number of steps of 1/32 octave, so another choice takes no more room. The
encoder fits them to the weights; who has the base model at hand knows better (see
hydraopt.evaluate.gains). All else in the streams stays as it was coded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hydraopt.adapters import Adapter
from hydraopt.align import MergeSet
from hydraopt.bundle.spec import TaskEntry
from hydraopt.coding.stream import StreamReader, StreamWriter
from hydraopt.encode import squared_error
from hydraopt.parts import PartsRecord, read_basis, read_record, write_parts
from hydraopt.passes import Draft
from hydraopt.types import Array, Basis, Factors, thin

__all__ = ["Rescaler", "rescaled"]

Shifts = Mapping[str, NDArray[np.int64]]
Rescaler = Callable[[str, Mapping[str, Factors]], Shifts]
"""Called with a task's name and its coded factors by module path, B (m, k) and A (k, n). Gives, by
module path, by how many steps of 1/32 octave each of the k parts shall grow, (k,); modules that are
left out stay as they are, and an empty answer leaves the task alone."""


@dataclass(frozen=True)
class _Change:
    """Another stream of a content, (modules,) squared errors with it, and what it costs more."""

    content: int
    stream: bytes
    errors: Array
    more_bytes: int
    more_error: float


def rescaled(
    draft: Draft,
    pieces: MergeSet,
    adapters: Mapping[str, Adapter],
    ask: Rescaler,
    kept: Callable[[Draft], bool],
    by_bytes: bool,
) -> Draft:
    """The draft with the coefficients that ``ask`` gives, its errors measured anew.

    adapters: the originals by task name. kept: whether a draft is within the budget; where the new
    one is not, the tasks whose bytes (``by_bytes``) or errors grew most keep their old
    coefficients, one after another, until it is. Tasks of equal content share a stream: the first
    that ``ask`` has an answer for decides.
    """
    bases = _bases(draft.shared, pieces)
    changes: dict[int, _Change] = {}
    for task in pieces.tasks:
        if task.content is not None and task.content not in changes:
            change = _change(draft, pieces, task, bases, adapters[task.name], ask)
            if change:
                changes[task.content] = change
    left = sorted(
        changes.values(), key=lambda x: x.more_bytes if by_bytes else x.more_error, reverse=True
    )
    while left:
        found = _with(draft, left)
        if kept(found):
            return found
        left = left[1:]
    return draft


def _bases(shared: bytes, pieces: MergeSet) -> list[tuple[Basis | None, Basis | None]]:
    if not shared:
        return [(None, None)] * len(pieces.modules)
    reader = StreamReader(shared)
    return [
        (read_basis(reader, module.m, module.m), read_basis(reader, module.n, module.n))
        for module in pieces.modules
    ]


def _change(
    draft: Draft,
    pieces: MergeSet,
    task: TaskEntry,
    bases: list[tuple[Basis | None, Basis | None]],
    adapter: Adapter,
    ask: Rescaler,
) -> _Change | None:
    content = task.content
    assert content is not None
    before = draft.streams[content]
    reader = StreamReader(before)
    records: dict[int, PartsRecord | None] = {}
    for index in task.modules:
        module = pieces.modules[index]
        records[index] = read_record(reader, module.m, module.n, *bases[index])
    paths = {pieces.modules[i].path: record for i, record in records.items() if record}
    shifts = ask(task.name, {path: record.factors for path, record in paths.items()})
    if not any(np.any(shift) for shift in shifts.values()):
        return None
    writer = StreamWriter()
    errors = draft.errors[content].copy()
    for index, record in records.items():
        path = pieces.modules[index].path
        if record and path in shifts:
            record = dataclasses.replace(record, exponents=record.exponents + shifts[path])
            b, a = adapter.modules[path].factors()
            original = thin(b.astype(np.float64), a.astype(np.float64))
            errors[index] = squared_error(original, record)
        write_parts(writer, record, bases[index] != (None, None))
    stream = writer.finish()
    more_error = float(errors.sum() - draft.errors[content].sum())
    energy = float(draft.energies[content].sum())
    return _Change(content, stream, errors, len(stream) - len(before), more_error / energy)


def _with(draft: Draft, changes: list[_Change]) -> Draft:
    streams, errors = list(draft.streams), draft.errors.copy()
    for change in changes:
        streams[change.content], errors[change.content] = change.stream, change.errors
    return dataclasses.replace(draft, streams=tuple(streams), errors=errors)
