"""Rewrite: a draft in which some tasks have other records than the encoder made.

The shared bases and all other tasks stay as they were coded. A budget is still kept: tasks go back
to what the encoder made where it would not be.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hydraopt.adapters import Adapter
from hydraopt.bundle.spec import TaskEntry
from hydraopt.coding.chunks import ChunkWriter
from hydraopt.coding.dense import write_dense
from hydraopt.coding.records import PartsRecord, states_mode, write_record
from hydraopt.compress.encode import squared_error
from hydraopt.compress.recode import CodedModule
from hydraopt.files.aside import Aside, Chosen, Laid, Place, sizes_of
from hydraopt.linalg.shapes import Array, Factors
from hydraopt.linalg.svd import thin
from hydraopt.merging.align import MergeSet
from hydraopt.merging.budget import Budget, StreamChange
from hydraopt.merging.decoded import DecodedDraft
from hydraopt.merging.draft import Draft
from hydraopt.threads import one_blas_thread

__all__ = ["Asked", "CodedModules", "Rewritten", "rewritten"]

CodedModules = Callable[[], Mapping[str, CodedModule]]
"""Decodes a task's modules, by path; those of which nothing is kept are not there."""
Asked = Callable[[str, CodedModules], Mapping[str, PartsRecord]]
"""Called with a task's name; gives other records by module path, none to leave the task alone."""


@dataclass(frozen=True)
class Rewritten:
    """A draft with other records: in how many tasks, and how many had to go back."""

    draft: Draft
    tasks: int
    back: int


@dataclass(frozen=True)
class _Stream:
    """Another stream of a content, where it lies, and (items,) squared errors with it.

    strain: how much of the blame is its, if a budget is not kept any more.
    """

    content: int
    place: Place
    errors: Array
    strain: float


def rewritten(
    draft: Draft,
    pieces: MergeSet,
    adapters: Mapping[str, Adapter],
    ask: Asked,
    budget: Budget,
    value_of: Callable[[Draft, int], float],
) -> Rewritten:
    """Return the draft with the records that ``ask`` gives, its errors measured again.

    If the budget is exceeded, tasks go back to what the encoder made: first those whose bytes grew
    most (a size), whose error grew most (a mean error) or whose error is largest (a largest error).
    Tasks of equal content share a stream; the first for which ``ask`` returns records decides.

    adapters: the originals by task name.
    value_of: returns the limited value of a draft in which so many tasks have other records.
    """
    decoded, aside = DecodedDraft(draft, pieces), Aside()
    streams: dict[int, _Stream] = {}
    for task in pieces.tasks:
        if task.content is not None and task.content not in streams:
            other = _stream(decoded, task, adapters[task.name], ask, budget, aside)
            if other:
                streams[task.content] = other
    order = sorted(streams.values(), key=lambda other: other.strain, reverse=True)
    owners = Counter(task.content for task in pieces.tasks)

    def attempt(dropped: int) -> tuple[Draft, int]:
        kept = order[dropped:]
        return _with(draft, kept, aside), sum(owners[other.content] for other in kept)

    # With all dropped the draft is as it came, which keeps the budget.
    dropped = bisect.bisect_left(
        range(len(order)), True, key=lambda n: value_of(*attempt(n)) <= budget.limit
    )
    return Rewritten(*attempt(dropped), sum(owners[other.content] for other in order[:dropped]))


def _stream(
    decoded: DecodedDraft,
    task: TaskEntry,
    adapter: Adapter,
    ask: Asked,
    budget: Budget,
    aside: Aside,
) -> _Stream | None:
    draft, content = decoded.draft, task.content
    assert content is not None
    paths = {index: decoded.pieces.modules[index].path for index in task.modules}
    read = functools.cache(lambda: decoded.read(task))

    def modules() -> dict[str, CodedModule]:
        return {
            paths[i]: CodedModule(record, *decoded.bases[i], task.start)
            for i, record in read()[0].items()
            if record is not None
        }

    others = ask(task.name, modules)
    if not others:
        return None
    writer = ChunkWriter()
    errors = draft.errors[content].copy()
    with one_blas_thread():
        for index, record in read()[0].items():
            other = others.get(paths[index])
            if other is not None:
                original = Factors.of(*adapter.modules[paths[index]].factors())
                errors[index] = squared_error(thin(original.B, original.A), other)
            coded = other or record
            if coded is not None:
                coded.check(task.name, paths[index])
            write_record(writer, coded, states_mode(decoded.bases[index], task.start))
            writer.end_record(coded.numbers if coded else 0)
    for i, tensor in zip(task.tensors, read()[1], strict=True):
        entry = decoded.pieces.tensors[i]
        write_dense(writer, tensor)
        writer.end_record(tensor.numbers(entry.numbers, entry.base is not None))
    stream = writer.finish()
    counted = draft.errors.copy()
    counted[content] = errors
    before, after = (float(draft.counting.errors(x)[content]) for x in (draft.errors, counted))
    grown = len(stream) - sizes_of(draft.streams)[content]
    strain = budget.strain(StreamChange(grown, before, after))
    return _Stream(content, aside.put(stream), errors, strain)


def _with(draft: Draft, others: list[_Stream], aside: Aside) -> Draft:
    """Return the draft with these streams, which stay where they are."""
    errors, numbers = draft.errors.copy(), dict[int, int]()
    for number, other in enumerate(others):
        errors[other.content], numbers[other.content] = other.errors, number
    made = Laid(aside, [other.place for other in others])
    chosen = [
        (made, [numbers[i]]) if i in numbers else (draft.streams, [i])
        for i in range(len(draft.streams))
    ]
    return dataclasses.replace(draft, streams=Chosen(*chosen), errors=errors)
