"""Size of each item in a bundle, and the errors that its manifest states."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hydraopt.bundle.originals import original_bytes, originals_of
from hydraopt.bundle.reader import Bundle, open_bundle
from hydraopt.coding.records import read_basis
from hydraopt.inspect.summary import module_type
from hydraopt.linalg.basis import Basis
from hydraopt.progress import Progress, silent

__all__ = ["SCHEMA", "inspect_bundle", "sharers", "task_rows"]

SCHEMA = "hydraopt.inspect.bundle/1"
MOST_NAMED = 100


def task_rows(bundle: Bundle) -> list[dict[str, Any]]:
    """Return one row for each task, from the manifest alone; nothing is decoded.

    own_bytes: bytes of its coded stream.
    carried_bytes: bytes of tensors kept bit by bit.
    shared_with: tasks of equal content, which use the same stream, at most a hundred.
    fp16_bytes: two bytes for each number of the original.
    original_bytes: as :func:`hydraopt.bundle.originals.original_bytes` counts them.
    tensors, tensor_error: coded tensors beside the modules, and the largest relative error among
    them.
    harm: answers that change and the like, as in hydraopt.bundle.Harm; None if not measured.
    curve: its trial encodings, as in hydraopt.bundle.HarmPoint.
    """
    sizes, shared, originals = bundle.tensor_bytes, sharers(bundle), original_bytes(bundle)
    return [
        {
            "name": task.name,
            "error": task.error,
            "own_bytes": 0 if task.content is None else sizes[f"task/{task.content}"],
            "carried_bytes": sum(sizes[f"carried/{i}"] for i in task.carried),
            "fp16_bytes": 2 * task.numbers,
            "original_bytes": originals[task.name],
            "modules": len(task.modules),
            "tensors": len(task.tensors),
            "tensor_error": max(task.tensor_errors, default=None),
            "lossless": task.lossless,
            "format": task.format,
            "shared_with": shared[task.name],
            "notes": list(task.notes),
            "harm": None if task.harm is None else asdict(task.harm),
            "curve": [asdict(point) for point in task.curve],
        }
        for task in bundle.manifest.tasks
    ]


def sharers(bundle: Bundle) -> dict[str, list[str]]:
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


def inspect_bundle(
    path: str | os.PathLike[str], progress: Progress | None = None
) -> dict[str, Any]:
    """Return bytes, forms and stated errors of every task and module of a bundle, ready for JSON.

    original_bytes, originals: fields of :class:`hydraopt.bundle.originals.Originals`.
    tasks: :func:`task_rows` plus ``forms`` (records by form), ``worst_module``, ``details``: bytes,
    error and form of each module, and ``tensor_details``: the same of each coded tensor.
    modules: the details grouped by module, with the vectors and bytes of the shared bases.
    tensors: coded tensors by key, over all tasks.
    parts: bytes of the file by what they store; they add up to size.

    Every task is decoded once. Raises BundleFormatError for a damaged bundle.
    """
    bundle = open_bundle(path)
    tasks = _detailed_tasks(bundle, progress or silent)
    modules = _modules(bundle, tasks)
    fp16_bytes = sum(row["fp16_bytes"] for row in tasks)
    originals = originals_of(bundle)
    return {
        "schema": SCHEMA,
        "path": str(path),
        "size": bundle.size,
        "fp16_bytes": fp16_bytes,
        "fraction": bundle.size / fp16_bytes if fp16_bytes else 0.0,
        "original_bytes": originals.size,
        "originals": originals.stored,
        "base_model": bundle.base_model,
        "recipe": dict(bundle.recipe),
        "metadata": {k: v for k, v in bundle.metadata.items() if k != "checksums"},
        "parts": _bytes_by_place(bundle),
        "tasks": tasks,
        "types": _by_type(modules),
        "modules": modules,
        "tensors": _tensors(tasks),
    }


def _tensors(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the coded tensors by key and shape, largest number of bytes first."""
    rows: dict[tuple[str, tuple[int, ...]], dict[str, Any]] = {}
    seen = set()
    for task in tasks:
        first = min([task["name"], *task["shared_with"]])
        for x in task["tensor_details"]:
            about = {name: x[name] for name in ("key", "kind", "shape")}
            row = rows.setdefault(
                (x["key"], tuple(x["shape"])), {**about, "tasks": 0, "bytes": 0, "worst_error": 0.0}
            )
            row["tasks"] += 1
            row["worst_error"] = max(row["worst_error"], x["error"])
            # Tasks of equal content share their bytes.
            stream = first, x["key"]
            row["bytes"] += 0 if stream in seen else x["bytes"]
            seen.add(stream)
    return sorted(rows.values(), key=lambda row: (-row["bytes"], row["key"]))


def _detailed_tasks(bundle: Bundle, progress: Progress) -> list[dict[str, Any]]:
    """Return the tasks with the bytes of each of their modules; every task is decoded."""
    tasks = task_rows(bundle)
    rows = {row["name"]: row for row in tasks}
    for done, task in enumerate(bundle.one_by_one(), 1):
        row = rows[task.name]
        forms, coded, errors = task.forms(), task.coded_bytes(), task.module_errors
        row["details"] = [
            {
                "path": module,
                "bytes": coded.get(module, 0),
                "error": errors.get(module, 0.0),
                "form": form,
            }
            for module, form in forms.items()
        ]
        row["forms"] = dict(sorted(Counter(forms.values()).items()))
        errors, sizes = task.tensor_errors, task.tensor_bytes()
        row["tensor_details"] = [
            {
                "key": x.key,
                "kind": x.kind,
                "shape": list(x.shape),
                "bytes": sizes[x.key],
                "error": errors[x.key],
                "base": x.base is not None,
            }
            for x in (bundle.manifest.tensors[i] for i in task.entry.tensors)
        ]
        worst = max(row["details"], key=lambda x: x["error"], default=None)
        row["worst_module"] = worst["path"] if worst else None
        progress("decoding", done, len(tasks))
    return tasks


def _modules(bundle: Bundle, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Group the details of all tasks by module, with the vectors and bytes of the shared bases."""
    streams = {task.name: task.content for task in bundle.manifest.tasks}
    details: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for row in tasks:
        for detail in row["details"]:
            details.setdefault(detail["path"], []).append((row["name"], detail))
    modules = []
    costs = zip(bundle.manifest.modules, _basis_costs(bundle), strict=True)
    for module, (vectors, basis_bytes) in costs:
        here = details.get(module.path, [])
        task_bytes = _distinct_bytes(here, streams)
        worst_task = max(here, key=lambda x: x[1]["error"], default=None)
        modules.append(
            {
                "path": module.path,
                "type": module_type(module.path),
                "kind": module.kind,
                "m": module.m,
                "n": module.n,
                "tasks": len(here),
                "basis_vectors": vectors,
                "basis_bytes": basis_bytes,
                "task_bytes": task_bytes,
                "bytes": task_bytes + sum(basis_bytes.values()),
                "mean_error": _mean([x["error"] for _, x in here]),
                "worst_error": worst_task[1]["error"] if worst_task else 0.0,
                "worst_task": worst_task[0] if worst_task else None,
                "forms": dict(sorted(Counter(x["form"] for _, x in here).items())),
            }
        )
    return modules


def _mean(errors: Sequence[float]) -> float:
    return sum(errors) / len(errors) if errors else 0.0


def _bytes_by_place(bundle: Bundle) -> dict[str, int]:
    """Return the bytes of the file by what they store."""
    sizes = bundle.tensor_bytes
    return {
        "header": bundle.size - sum(sizes.values()),
        "manifest": sizes["manifest"],
        "shared": sizes["shared"],
        "tasks": sum(v for k, v in sizes.items() if k.startswith("task/")),
        "carried": sum(v for k, v in sizes.items() if k.startswith("carried/")),
    }


def _by_type(modules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Combine modules of one type and shape.

    Bytes are summed; errors are averaged over the tasks that have them.
    """
    groups: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for row in modules:
        groups.setdefault((row["type"], row["m"], row["n"]), []).append(row)
    return [
        {
            "type": kind,
            "m": m,
            "n": n,
            "modules": len(rows),
            "bytes": sum(x["bytes"] for x in rows),
            "basis_bytes": {
                side: sum(x["basis_bytes"][side] for x in rows) for side in ("left", "right")
            },
            "mean_error": _mean([x["mean_error"] for x in rows if x["tasks"]]),
            "worst_error": max(x["worst_error"] for x in rows),
            "forms": _all_forms(rows),
        }
        for (kind, m, n), rows in groups.items()
    ]


def _all_forms(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Count the records by form over modules."""
    counts: dict[str, int] = {}
    for row in rows:
        for form, count in row["forms"].items():
            counts[form] = counts.get(form, 0) + count
    return dict(sorted(counts.items()))


def _distinct_bytes(here: list[tuple[str, dict[str, Any]]], streams: dict[str, int | None]) -> int:
    """Return the bytes of a module over its tasks, counting a stream of several tasks once.

    A task without a stream has no coded bytes.
    """
    return sum({streams[name]: detail["bytes"] for name, detail in here}.values())
