"""Size of each item in a bundle, against the originals, and the errors that its manifest states."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final, Literal

from hydraopt.adapters import DTYPE_BYTES
from hydraopt.bundle import Bundle, Harm, open_bundle
from hydraopt.codec import Basis, KnownStart, read_basis
from hydraopt.inspect.likeness import module_type
from hydraopt.notes import Note, stored
from hydraopt.progress import Progress, silent

Stored = Literal["fp16", "read", "mixed"]
"""Precision in which originals count: fp16, as they were read, or both."""

NAMES: Final = {"fp16": "fp16", "read": "the bytes read", "mixed": "the originals"}


@dataclass(frozen=True)
class Originals:
    """Size of the originals of some tasks.

    size (bytes): sum over the tasks.
    stored: "fp16" where all count with two bytes a number, "read" where all count as they were
        read, because a lossless task keeps its precision, "mixed" where tasks differ.
    """

    size: int
    stored: Stored

    @property
    def name(self) -> str:
        """Name after "% of"."""
        return NAMES[self.stored]

    @property
    def column(self) -> str:
        """Heading of a column of bytes by task."""
        return "fp16 bytes" if self.stored == "fp16" else "original bytes"


def original_bytes(bundle: Bundle) -> dict[str, int]:
    """Return the bytes of each task's original: as read for a lossless task, in fp16 for others.

    In fp16 too: tasks made by a method, which are stored losslessly but are not what was read.
    """
    as_read = "method" not in bundle.recipe
    return {
        task.name: (DTYPE_BYTES[task.dtype] if task.lossless and as_read else 2) * task.numbers
        for task in bundle.manifest.tasks
    }


def originals_of(bundle: Bundle) -> Originals:
    """Return the size of all originals of a bundle, as :func:`original_bytes` counts it."""
    sizes = original_bytes(bundle)
    as_read = "method" not in bundle.recipe
    kinds = {as_read and row.lossless for row in bundle.rows}
    stored: Stored = "mixed" if len(kinds) > 1 else "read" if True in kinds else "fp16"
    return Originals(sum(sizes.values()), stored)


def compared(size: int, originals: Originals) -> str:
    """Return a size as a share of the originals: "5.00 % of the fp16 bytes, 20.0x smaller"."""
    whole = {
        "fp16": "the fp16 bytes",
        "read": "the bytes read",
        "mixed": "the originals (lossless tasks as read, others in fp16)",
    }[originals.stored]
    if not originals.size:
        return f"no part of {whole}"
    return f"{100 * size / originals.size:.2f} % of {whole}, {change_of(size, originals.size, 'x')}"


def change_of(size: int, before: int, times: str = " times") -> str:
    """Return the factor between two sizes, from 1 up: "20.0 times smaller", "1.2 times larger"."""
    low, high = sorted((max(size, 1), max(before, 1)))
    word = "smaller" if size <= before else "larger"
    return f"{high / low:.1f}{times} {word}"


MOST_NAMED = 100


@dataclass(frozen=True)
class TaskCost:
    """Bytes and stated errors of one task.

    own_bytes: bytes of its coded stream.
    carried_bytes: bytes of tensors kept bit by bit.
    fp16_bytes: two bytes for each number of the original.
    original_bytes: as :func:`hydraopt.inspect.bundle.original_bytes` counts them.
    tensors, tensor_error: coded tensors beside the modules, and the largest relative error among
        them; None without any.
    shared_with: tasks of equal content, which use the same stream, at most a hundred.
    harm: None if not measured.
    """

    name: str
    error: float
    own_bytes: int
    carried_bytes: int
    fp16_bytes: int
    original_bytes: int
    modules: int
    tensors: int
    tensor_error: float | None
    lossless: bool
    format: str
    shared_with: tuple[str, ...]
    notes: tuple[Note, ...]
    harm: Harm | None
    start: KnownStart | None


@dataclass(frozen=True)
class TaskModule:
    """One module of one task: its bytes, relative error and form."""

    path: str
    bytes: int
    error: float
    form: str


@dataclass(frozen=True)
class TaskTensor:
    """One coded tensor of one task. base: whether it is a difference from the base model."""

    key: str
    kind: str
    shape: tuple[int, ...]
    bytes: int
    error: float
    base: bool


@dataclass(frozen=True)
class TaskDetails(TaskCost):
    """Cost of a task with that of its modules and tensors. forms: number of records by form."""

    details: tuple[TaskModule, ...]
    forms: Mapping[str, int]
    tensor_details: tuple[TaskTensor, ...]
    worst_module: str | None


@dataclass(frozen=True)
class ModuleCost:
    """One module (m, n) over all tasks.

    tasks: number of tasks that have it. basis_vectors, basis_bytes: of its shared bases, by side.
    task_bytes: sum over the tasks. forms: number of records by form.
    """

    path: str
    type: str
    kind: str
    m: int
    n: int
    tasks: int
    basis_vectors: Mapping[str, int]
    basis_bytes: Mapping[str, int]
    task_bytes: int
    bytes: int
    mean_error: float
    worst_error: float
    worst_task: str | None
    forms: Mapping[str, int]


@dataclass(frozen=True)
class TypeCost:
    """All modules of one type and shape: bytes are sums, mean_error is over tasks and modules."""

    type: str
    m: int
    n: int
    modules: int
    bytes: int
    basis_bytes: Mapping[str, int]
    mean_error: float
    worst_error: float
    forms: Mapping[str, int]


@dataclass(frozen=True)
class BundleReport:
    """Bytes, forms and stated errors of every task and module of a bundle.

    original_bytes, originals: fields of :class:`hydraopt.inspect.bundle.Originals`.
    parts: bytes of the file by what they store; they add up to size.
    recipe, metadata: as the bundle states them.
    """

    SCHEMA: ClassVar[str] = "hydraopt.inspect.bundle/1"
    path: str
    size: int
    fp16_bytes: int
    fraction: float
    original_bytes: int
    originals: Stored
    base_model: str | None
    recipe: Mapping[str, Any]
    metadata: Mapping[str, str]
    parts: Mapping[str, int]
    tasks: tuple[TaskDetails, ...]
    types: tuple[TypeCost, ...]
    modules: tuple[ModuleCost, ...]


def task_rows(bundle: Bundle) -> list[TaskCost]:
    """Return the cost of each task, from the manifest alone; nothing is decoded."""
    sizes, shared, originals = bundle.tensor_bytes, _sharers(bundle), original_bytes(bundle)
    return [
        TaskCost(
            name=task.name,
            error=task.error,
            own_bytes=0 if task.content is None else sizes[f"task/{task.content}"],
            carried_bytes=sum(sizes[f"carried/{i}"] for i in task.carried),
            fp16_bytes=2 * task.numbers,
            original_bytes=originals[task.name],
            modules=len(task.modules),
            tensors=len(task.tensors),
            tensor_error=max(task.tensor_errors, default=None),
            lossless=task.lossless,
            format=task.format,
            shared_with=tuple(shared[task.name]),
            notes=stored(task.name, task.notes),
            harm=task.harm,
            start=task.start,
        )
        for task in bundle.manifest.tasks
    ]


def _sharers(bundle: Bundle) -> dict[str, list[str]]:
    """Return, by task, the other tasks of equal content, at most a hundred."""
    owners: dict[int | None, list[str]] = {}
    for task in bundle.manifest.tasks:
        owners.setdefault(task.content, []).append(task.name)
    owners[None] = []
    return {
        task.name: [name for name in owners[task.content][:MOST_NAMED] if name != task.name]
        for task in bundle.manifest.tasks
    }


def _basis_costs(bundle: Bundle) -> list[tuple[dict[str, int], dict[str, int]]]:
    """Return, for each module, vectors and bytes of its bases, by side."""
    modules = bundle.manifest.modules
    if not bundle.tensor_bytes["shared"] or not modules:
        return [({"left": 0, "right": 0}, {"left": 0, "right": 0}) for _ in modules]
    records = len(modules) + len(bundle.manifest.tensors)
    reader = bundle.open_stream("shared", records)
    costs = []
    for module in modules:
        vectors, sizes = {}, {}
        for side, length in (("left", module.m), ("right", module.n)):
            start = reader.position
            basis: Basis | None = read_basis(reader, length, length)
            vectors[side] = basis.q if basis else 0
            sizes[side] = reader.position - start
        reader.end_record()
        costs.append((vectors, sizes))
    return costs


def inspect_bundle(path: str | os.PathLike[str], progress: Progress | None = None) -> BundleReport:
    """Measure every task and module of a bundle; every task is decoded once.

    Raises BundleFormatError for a damaged bundle.
    """
    bundle = open_bundle(path)
    tasks = tuple(detailed_tasks(bundle, set(bundle), progress or silent).values())
    modules = _modules(bundle, tasks)
    fp16_bytes = sum(row.fp16_bytes for row in tasks)
    originals = originals_of(bundle)
    return BundleReport(
        path=str(path),
        size=bundle.size,
        fp16_bytes=fp16_bytes,
        fraction=bundle.size / fp16_bytes if fp16_bytes else 0.0,
        original_bytes=originals.size,
        originals=originals.stored,
        base_model=bundle.base_model,
        recipe=dict(bundle.recipe),
        metadata={k: v for k, v in bundle.metadata.items() if k != "checksums"},
        parts=bytes_by_place(bundle),
        tasks=tasks,
        types=_by_type(modules),
        modules=modules,
    )


def detailed_tasks(
    bundle: Bundle, names: Collection[str], progress: Progress
) -> dict[str, TaskDetails]:
    """Return tasks with the bytes of each of their modules; each is decoded once."""
    costs = {row.name: row for row in task_rows(bundle) if row.name in names}
    detailed = {}
    # The order in which each stream is decoded once, whoever shares it.
    for task in bundle.one_by_one():
        if task.name not in costs:
            continue
        forms, coded, errors = task.forms(), task.coded_bytes(), task.module_errors
        modules = tuple(
            TaskModule(path, coded.get(path, 0), errors.get(path, 0.0), form)
            for path, form in forms.items()
        )
        tensor_errors, sizes = task.tensor_errors, task.tensor_bytes()
        tensors = tuple(
            TaskTensor(
                x.key,
                x.kind,
                tuple(x.shape),
                sizes[x.key],
                tensor_errors[x.key],
                x.base is not None,
            )
            for x in (bundle.manifest.tensors[i] for i in task.entry.tensors)
        )
        worst = max(modules, key=lambda x: x.error, default=None)
        cost = costs[task.name]
        detailed[task.name] = TaskDetails(
            **{one.name: getattr(cost, one.name) for one in fields(cost)},
            details=modules,
            forms=_counts(forms.values()),
            tensor_details=tensors,
            worst_module=worst.path if worst else None,
        )
        progress("decoding", len(detailed), len(costs))
    return {name: detailed[name] for name in costs}


def _counts(forms: Iterable[str]) -> dict[str, int]:
    """Return the number of records by form, sorted."""
    return dict(sorted(Counter(forms).items()))


def _modules(bundle: Bundle, tasks: Sequence[TaskDetails]) -> tuple[ModuleCost, ...]:
    """Group the details of all tasks by module, with the vectors and bytes of the shared bases."""
    streams = {task.name: task.content for task in bundle.manifest.tasks}
    details: dict[str, list[tuple[str, TaskModule]]] = {}
    for row in tasks:
        for detail in row.details:
            details.setdefault(detail.path, []).append((row.name, detail))
    modules = []
    costs = zip(bundle.manifest.modules, _basis_costs(bundle), strict=True)
    for module, (vectors, basis_bytes) in costs:
        here = details.get(module.path, [])
        # A stream of several tasks counts once; a task without a stream has no coded bytes.
        task_bytes = sum({streams[name]: detail.bytes for name, detail in here}.values())
        worst_task = max(here, key=lambda x: x[1].error, default=None)
        modules.append(
            ModuleCost(
                path=module.path,
                type=module_type(module.path),
                kind=module.kind,
                m=module.m,
                n=module.n,
                tasks=len(here),
                basis_vectors=vectors,
                basis_bytes=basis_bytes,
                task_bytes=task_bytes,
                bytes=task_bytes + sum(basis_bytes.values()),
                mean_error=_mean([x.error for _, x in here]),
                worst_error=worst_task[1].error if worst_task else 0.0,
                worst_task=worst_task[0] if worst_task else None,
                forms=_counts(x.form for _, x in here),
            )
        )
    return tuple(modules)


def _mean(errors: Sequence[float]) -> float:
    return sum(errors) / len(errors) if errors else 0.0


def bytes_by_place(bundle: Bundle) -> dict[str, int]:
    """Return the bytes of the file by what they store."""
    sizes = bundle.tensor_bytes
    return {
        "header": bundle.size - sum(sizes.values()),
        "manifest": sizes["manifest"],
        "shared": sizes["shared"],
        "tasks": sum(v for k, v in sizes.items() if k.startswith("task/")),
        "carried": sum(v for k, v in sizes.items() if k.startswith("carried/")),
    }


def _by_type(modules: Sequence[ModuleCost]) -> tuple[TypeCost, ...]:
    """Combine modules of one type and shape.

    Bytes are summed; errors are averaged over the tasks that have them.
    """
    groups: dict[tuple[str, int, int], list[ModuleCost]] = {}
    for row in modules:
        groups.setdefault((row.type, row.m, row.n), []).append(row)
    return tuple(
        TypeCost(
            type=kind,
            m=m,
            n=n,
            modules=len(rows),
            bytes=sum(x.bytes for x in rows),
            basis_bytes={
                side: sum(x.basis_bytes[side] for x in rows) for side in ("left", "right")
            },
            mean_error=_mean([x.mean_error for x in rows if x.tasks]),
            worst_error=max(x.worst_error for x in rows),
            forms=dict(sorted(sum((Counter(x.forms) for x in rows), Counter()).items())),
        )
        for (kind, m, n), rows in groups.items()
    )
