"""Listing of a collection and comparison of two, from manifests and checksums alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Final, Literal

from hydraopt.bundle import Added, Bundle, TaskEntry, TaskRow, open_bundle
from hydraopt.files import StrPath, place_of
from hydraopt.merging import MiddlePrice

_NUMBERED: Final = {"name", "content", "config", "carried", "modules", "tensors", "added"}
"""Columns of a row that are valid only in its own collection, or are compared separately."""


@dataclass(frozen=True)
class TaskFacts:
    """One task. own_bytes: of its stream. added: None for a task of the merge."""

    name: str
    error: float
    own_bytes: int
    carried_bytes: int
    fp16_bytes: int
    lossless: bool
    added: Added | None

    @classmethod
    def of(cls, task: TaskRow) -> TaskFacts:
        """Return the facts of a listed task."""
        return cls(
            task.name,
            task.error,
            task.own_bytes,
            task.carried_bytes,
            2 * task.numbers,
            task.lossless,
            task.added,
        )


@dataclass(frozen=True)
class Listing:
    """Tasks of a collection.

    size: bytes of the whole. core_bytes: bytes of the shared stream.
    price, norm: as in MiddlePrice; None where the recipe does not state them.
    """

    SCHEMA: ClassVar[str] = "hydraopt.list/1"
    path: str
    size: int
    core_bytes: int
    base_model: str | None
    price: float | None
    norm: float | None
    tasks: tuple[TaskFacts, ...]


@dataclass(frozen=True)
class ChangedTask:
    """Task in both collections that differs; numbers are before and after.

    what: "stream", "carried", "config", or a column of the row.
    """

    name: str
    what: tuple[str, ...]
    error: tuple[float, float]
    own_bytes: tuple[int, int]
    carried_bytes: tuple[int, int]


@dataclass(frozen=True)
class Difference:
    """Changes from one collection to another.

    core: "same" or "other"; with "other" streams cannot be recognised as equal.
    added, removed, same: names. renamed: new names by old names, for tasks with the same bytes.
    """

    SCHEMA: ClassVar[str] = "hydraopt.difference/1"
    paths: tuple[str, str]
    size: tuple[int, int]
    core: Literal["same", "other"]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    renamed: Mapping[str, str]
    changed: tuple[ChangedTask, ...]
    same: tuple[str, ...]


def listing(path: StrPath) -> Listing:
    """List the tasks of a collection. Nothing is decoded."""
    bundle = open_bundle(path)
    price = MiddlePrice.in_recipe(bundle.recipe)
    return Listing(
        str(place_of(path)),
        bundle.size,
        bundle.core_bytes,
        bundle.base_model,
        price.price if price else None,
        price.norm if price else None,
        tuple(map(TaskFacts.of, bundle.rows)),
    )


def difference(one: StrPath, other: StrPath) -> Difference:
    """Compare ``other`` with ``one``, by manifests and checksums."""
    a, b = (open_bundle(path) for path in (one, other))
    mine, theirs = (_marks(bundle) for bundle in (a, b))
    same_core = _core_mark(a) == _core_mark(b)
    if not same_core:
        # Bytes of a stream mean nothing without their core.
        theirs = {name: {**marks, "stream": None} for name, marks in theirs.items()}
    gone, come = (sorted(set(x) - set(y)) for x, y in ((mine, theirs), (theirs, mine)))
    renamed: dict[str, str] = {}
    for name in gone:
        alike = [x for x in come if theirs[x] == mine[name] and x not in renamed.values()]
        if alike:
            renamed[name] = alike[0]
    before, after = ({row.name: TaskFacts.of(row) for row in x.rows} for x in (a, b))
    common = sorted(set(mine) & set(theirs))
    changed = [
        _changed(what, before[name], after[name])
        for name in common
        if (what := tuple(key for key in mine[name] if mine[name][key] != theirs[name][key]))
    ]
    unlike = {row.name for row in changed}
    return Difference(
        (str(place_of(one)), str(place_of(other))),
        (a.size, b.size),
        "same" if same_core else "other",
        tuple(name for name in come if name not in renamed.values()),
        tuple(name for name in gone if name not in renamed),
        renamed,
        tuple(changed),
        tuple(name for name in common if name not in unlike),
    )


def _changed(what: tuple[str, ...], old: TaskFacts, new: TaskFacts) -> ChangedTask:
    return ChangedTask(
        new.name,
        what,
        (old.error, new.error),
        (old.own_bytes, new.own_bytes),
        (old.carried_bytes, new.carried_bytes),
    )


def _core_mark(bundle: Bundle) -> tuple[object, ...]:
    manifest = bundle.manifest
    return bundle.checksum("shared"), manifest.modules, manifest.tensors


def _marks(bundle: Bundle) -> dict[str, dict[str, object]]:
    """Return the marks by which tasks are compared, by task name."""
    return {task.name: _mark(bundle, task) for task in bundle.manifest.tasks}


def _mark(bundle: Bundle, task: TaskEntry) -> dict[str, object]:
    manifest = bundle.manifest
    row: Mapping[str, object] = {
        field.name: getattr(task, field.name)
        for field in fields(task)
        if field.name not in _NUMBERED
    }
    stream = None if task.content is None else bundle.checksum(f"task/{task.content}")
    held = [(bundle.checksum(f"carried/{i}"), manifest.blobs[i]) for i in task.carried]
    return {
        "stream": stream,
        "carried": sorted(held, key=lambda x: x[0]),
        "config": manifest.configs[task.config],
        "modules": [manifest.modules[i] for i in task.modules],
        "tensors": [manifest.tensors[i] for i in task.tensors],
        **row,
        "history": task.added,
    }
