"""Listing of a collection and comparison of two, from manifests and checksums alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from hydraopt.bundle.reader import Bundle, open_bundle
from hydraopt.bundle.row import TaskRow
from hydraopt.bundle.spec import TaskEntry
from hydraopt.collection.kinds import StrPath
from hydraopt.files.url import place_of
from hydraopt.merging.frozen import MiddlePrice

__all__ = ["difference", "listing"]

_NUMBERED: Final = {"name", "content", "config", "carried", "modules", "tensors", "added"}
"""Columns of a row that are valid only in its own collection, or are compared separately."""


def listing(path: StrPath) -> dict[str, Any]:
    """List the tasks of a collection, ready for JSON; schema hydraopt.list/1.

    size: bytes of the whole collection.
    core_bytes: bytes of the shared stream.
    price, norm: see MiddlePrice; null where the recipe does not state them.
    tasks: name, error, own_bytes (stream), carried_bytes, fp16_bytes, lossless, added (day and
    digest, or null).

    Nothing is decoded.
    """
    bundle = open_bundle(path)
    price = MiddlePrice.in_recipe(bundle.recipe)
    return {
        "schema": "hydraopt.list/1",
        "path": str(place_of(path)),
        "size": bundle.size,
        "core_bytes": bundle.core_bytes,
        "base_model": bundle.base_model,
        "price": price.price if price else None,
        "norm": price.norm if price else None,
        "tasks": [_row(task) for task in bundle.rows],
    }


def _row(task: TaskRow) -> dict[str, Any]:
    return {
        "name": task.name,
        "error": task.error,
        "own_bytes": task.own_bytes,
        "carried_bytes": task.carried_bytes,
        "fp16_bytes": 2 * task.numbers,
        "lossless": task.lossless,
        "added": dataclasses.asdict(task.added) if task.added else None,
    }


def difference(one: StrPath, other: StrPath) -> dict[str, Any]:
    """Compare ``other`` with ``one``; the result is ready for JSON, schema hydraopt.difference/1.

    core: "same" or "other"; with "other" streams cannot be recognised as equal.
    added, removed: names.
    renamed: new names by old names, for tasks with the same bytes.
    changed: tasks with the same name, each with what differs: "stream", "carried", "config", or a
    column of the row.
    same: names.
    size: bytes of both.
    """
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
    changed = []
    before, after = ({row.name: row for row in bundle.rows} for bundle in (a, b))
    for name in sorted(set(mine) & set(theirs)):
        what = [key for key in mine[name] if mine[name][key] != theirs[name][key]]
        if what:
            sizes = _before_and_after(before[name], after[name])
            changed.append({"name": name, "what": what, **sizes})
    named = {row["name"] for row in changed}
    return {
        "schema": "hydraopt.difference/1",
        "paths": [str(place_of(path)) for path in (one, other)],
        "size": [a.size, b.size],
        "core": "same" if same_core else "other",
        "added": [name for name in come if name not in renamed.values()],
        "removed": [name for name in gone if name not in renamed],
        "renamed": renamed,
        "changed": changed,
        "same": sorted(name for name in set(mine) & set(theirs) if name not in named),
    }


def _before_and_after(one: TaskRow, other: TaskRow) -> dict[str, Any]:
    rows = [_row(one), _row(other)]
    keys = ("error", "own_bytes", "carried_bytes")
    return {key: [row[key] for row in rows] for key in keys}


def _core_mark(bundle: Bundle) -> Any:
    manifest = bundle.manifest
    return bundle.checksum("shared"), manifest.modules, manifest.tensors


def _marks(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """Return the marks by which tasks are compared, by task name."""
    return {task.name: _mark(bundle, task) for task in bundle.manifest.tasks}


def _mark(bundle: Bundle, task: TaskEntry) -> dict[str, Any]:
    manifest = bundle.manifest
    row: Mapping[str, Any] = {
        field.name: getattr(task, field.name)
        for field in dataclasses.fields(task)
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
