"""Rescale: a draft whose parts have other coefficients than the encoder fitted.

A coefficient is a whole number of steps of 1/32 octave, so another choice takes hardly another
byte. The encoder fits them to the weights; who has the base model at hand knows better (see
hydraopt.basemodel.gains). All else in the streams stays as it was coded.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hydraopt.adapters import Adapter
from hydraopt.bundle.spec import TaskEntry
from hydraopt.coding.dense import write_dense
from hydraopt.coding.records import PartsRecord, write_record
from hydraopt.coding.stream import StreamWriter
from hydraopt.compress.encode import squared_error
from hydraopt.errors import UsageError, explain
from hydraopt.linalg.shapes import Array, Factors
from hydraopt.linalg.svd import thin
from hydraopt.merging.align import MergeSet
from hydraopt.merging.budget import Budget, Change
from hydraopt.merging.decoded import DecodedDraft
from hydraopt.merging.passes import Draft

__all__ = ["Rescaler", "rescaled"]

Shifts = Mapping[str, NDArray[np.int64]]
Rescaler = Callable[[str, Callable[[], Mapping[str, Factors]]], Shifts]
"""Called with a task's name and with a function that decodes its coded factors by module path,
B (m, k) and A (k, n). Gives, by module path, by how many steps of 1/32 octave each of the k parts
shall grow, (k,) integers; modules that are left out stay as they are, and an empty answer leaves
the task alone."""


@dataclass(frozen=True)
class _Recoded:
    """Another stream of a content, and (modules,) squared errors with it.

    strain: how much of the blame is its, if a budget is not kept any more.
    """

    content: int
    stream: bytes
    errors: Array
    strain: float


def rescaled(
    draft: Draft,
    pieces: MergeSet,
    adapters: Mapping[str, Adapter],
    ask: Rescaler,
    budget: Budget,
    value_of: Callable[[Draft, int], float],
) -> tuple[Draft, int, int]:
    """The draft with the coefficients that ``ask`` gives, its errors measured anew; how many tasks
    have them; and how many had to keep their old ones for the budget to be kept.

    adapters: the originals by task name. value_of: what the budget limits, of a draft in which so
    many tasks have new coefficients. Where it is too much, tasks go back: first those whose bytes
    grew most (a size), whose error grew most (a mean error) or is largest (a largest one). Tasks of
    equal content share a stream: the first for which ``ask`` has an answer decides.
    Raises UsageError for an answer that does not fit the parts.
    """
    coded = DecodedDraft(draft, pieces)
    recoded: dict[int, _Recoded] = {}
    for task in pieces.tasks:
        if task.content is not None and task.content not in recoded:
            other = _recoded(coded, task, adapters[task.name], ask, budget)
            if other:
                recoded[task.content] = other
    order = sorted(recoded.values(), key=lambda other: other.strain, reverse=True)

    owners = Counter(task.content for task in pieces.tasks)

    def attempt(dropped: int) -> tuple[Draft, int]:
        kept = {other.content: other for other in order[dropped:]}
        return _with(draft, kept), sum(owners[content] for content in kept)

    # With all dropped the draft is as it came, which keeps the budget.
    dropped = bisect.bisect_left(
        range(len(order)), True, key=lambda n: value_of(*attempt(n)) <= budget.limit
    )
    return *attempt(dropped), sum(owners[other.content] for other in order[:dropped])


def _recoded(
    coded: DecodedDraft, task: TaskEntry, adapter: Adapter, ask: Rescaler, budget: Budget
) -> _Recoded | None:
    draft, content = coded.draft, task.content
    assert content is not None
    paths = {index: coded.pieces.modules[index].path for index in task.modules}
    read = functools.cache(lambda: coded.read(task))

    def records() -> dict[int, PartsRecord | None]:
        return read()[0]

    shifts = ask(
        task.name, lambda: {paths[i]: x.factors for i, x in records().items() if x is not None}
    )
    if not any(np.any(shift) for shift in shifts.values()):
        return None
    counts = {paths[i]: x.count if x else 0 for i, x in records().items()}
    for path, shift in shifts.items():
        _check(task.name, path, shift, counts.get(path))
    writer = StreamWriter()
    errors = draft.errors[content].copy()
    with threadpool_limits(1, user_api="blas"):
        for index, record in records().items():
            path = paths[index]
            if record is not None and path in shifts:
                moved = record.exponents + np.asarray(shifts[path], np.int64)
                record = dataclasses.replace(record, exponents=moved)
                original = Factors.of(*adapter.modules[path].factors())
                errors[index] = squared_error(thin(original.B, original.A), record)
            write_record(writer, record, coded.bases[index] != (None, None))
    for tensor in read()[1]:
        write_dense(writer, tensor)
    stream = writer.finish()
    counted = draft.errors.copy()
    counted[content] = errors
    before, after = (float(draft.counting.errors(x)[content]) for x in (draft.errors, counted))
    grown = len(stream) - len(draft.streams[content])
    return _Recoded(content, stream, errors, budget.strain(Change(grown, before, after)))


def _check(task: str, path: str, shift: Any, count: int | None) -> None:
    steps = np.asarray(shift)
    if count is None or steps.shape != (count,) or steps.dtype.kind not in "iu":
        wanted = "no module of that name" if count is None else f"{count} integers"
        raise UsageError(
            explain(
                "cannot rescale the parts of a module",
                adapter=task,
                module=path,
                got=f"{steps.dtype} of shape {steps.shape}",
                expected=wanted,
            )
        )


def _with(draft: Draft, recoded: Mapping[int, _Recoded]) -> Draft:
    streams, errors = list(draft.streams), draft.errors.copy()
    for content, other in recoded.items():
        streams[content], errors[content] = other.stream, other.errors
    return dataclasses.replace(draft, streams=tuple(streams), errors=errors)
