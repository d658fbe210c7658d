"""A draft that is read again, before any file is written, and the harm of what it gives back."""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass

from hydraopt.bundle.spec import TaskEntry
from hydraopt.coding.chunks import ChunkReader
from hydraopt.coding.dense import DenseRecord, matrix_shape, read_common, read_dense
from hydraopt.coding.records import PartsRecord, read_record
from hydraopt.coding.side import read_basis
from hydraopt.linalg.basis import Basis
from hydraopt.linalg.shapes import Factors
from hydraopt.merging.align import MergeSet
from hydraopt.merging.draft import Draft
from hydraopt.merging.look import HarmJudge, MeasuredHarm
from hydraopt.merging.outcome import Job
from hydraopt.progress import Progress

__all__ = ["DecodedDraft", "measure_tasks"]


@dataclass(frozen=True)
class DecodedDraft:
    """A draft's streams, decoded when asked for."""

    draft: Draft
    pieces: MergeSet

    @functools.cached_property
    def bases(self) -> list[tuple[Basis | None, Basis | None]]:
        """Shared bases of all modules, left and right."""
        return self._shared[0]

    @functools.cached_property
    def _shared(self) -> tuple[list[tuple[Basis | None, Basis | None]], list[bool]]:
        """Bases of all modules, and for each tensor whether the tasks share a part of it."""
        modules, tensors = self.pieces.modules, self.pieces.tensors
        core = self.pieces.core
        if core is not None:
            return list(core.bases), [common is not None for common in core.commons]
        if not self.draft.shared:
            return [(None, None)] * len(modules), [False] * len(tensors)
        reader = ChunkReader(self.draft.shared, len(modules) + len(tensors))
        bases, commons = [], []
        for x in modules:
            bases.append((read_basis(reader, x.m, x.m), read_basis(reader, x.n, x.n)))
            reader.end_record()
        for tensor in tensors:
            commons.append(read_common(reader, matrix_shape(tensor.shape)))
            reader.end_record()
        return bases, [common is not None for common in commons]

    def read(self, task: TaskEntry) -> tuple[dict[int, PartsRecord | None], list[DenseRecord]]:
        """Return a task's records by module index, in coding order, and of its tensors."""
        assert task.content is not None
        count = len(task.modules) + len(task.tensors)
        reader = ChunkReader(self.draft.streams[task.content], count)
        records = {}
        for index in task.modules:
            module = self.pieces.modules[index]
            records[index] = read_record(reader, module.m, module.n, self.bases[index], task.start)
            reader.end_record()
        tensors = []
        for i in task.tensors:
            entry, common = self.pieces.tensors[i], self._shared[1][i]
            based = entry.base is not None
            tensors.append(read_dense(reader, matrix_shape(entry.shape), common, based))
            reader.end_record()
        return records, tensors

    def factors(self, task: TaskEntry) -> dict[str, Factors]:
        """Return B (m, k) with the scale inside and A (k, n) of a task's modules, by path.

        Modules of which nothing is kept are left out.
        """
        paths = {index: self.pieces.modules[index].path for index in task.modules}
        records = self.read(task)[0]
        return {paths[i]: record.factors for i, record in records.items() if record is not None}


def measure_tasks(
    draft: Draft,
    job: Job,
    judge: HarmJudge,
    progress: Progress,
    refitted: Collection[str] = (),
    stage: str = "measuring harm",
) -> dict[str, MeasuredHarm]:
    """Measure the harm of a draft to the coded tasks that have prompts.

    refitted: tasks to measure only on the prompts that no refit learned from.
    """
    decoded, judged = DecodedDraft(draft, job.pieces), {}
    names = judge.tasks()
    tasks = [x for x in job.pieces.tasks if x.name in names and x.content is not None]
    for done, task in enumerate(tasks, 1):
        factors = functools.partial(decoded.factors, task)
        judged[task.name] = judge.measure(task.name, factors, apart=task.name in refitted)
        progress(stage, done, len(tasks))
    return judged
