"""Measure KL and changed answers of hydraopt and of rivals at several sizes, on the same rows.

    python -m benchmarks.quality equal_kl SET --tasks TASKS [--rivals coded_svd svd_group]

All adapters of SET are written by each method at each of its sizes and read back, as in
``benchmarks.rivals compare``; bytes are of the whole set. Then each adapter, or those of --only,
writes greedy answers to the first rows of the test split, at most 128 tokens each. Of every row the
result has whether the answer changes in any token, and KL in nats an answer. Nothing is given to a
method but the adapters. Saved after each adapter; a second call continues.
Writes benchmarks/results/quality/SET.equal-kl.json.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, ROOT, package_hash, provenance, save_json
from benchmarks.quality.evidence import original_adapters
from benchmarks.quality.harness.judging import prompts_of_rows
from benchmarks.quality.sets import recipe_of
from benchmarks.rivals import registry
from benchmarks.rivals.base import (
    Compressor,
    ReadBack,
    Tasks,
    folder_bytes,
    pack,
    relative_errors,
    tasks_of,
)
from benchmarks.rivals.compare import ours
from hydraopt.adapters import Adapter
from hydraopt.basemodel.model import load_model
from hydraopt.basemodel.writing import answered
from hydraopt.bundle.harm import ANSWER_TOKENS
from hydraopt.harm.drift import Drift, drift_of, reference_of
from zoo.bases import base_folder
from zoo.recipe import read_recipe

__all__ = ["main", "row_values"]

SIZES = ("20%", "10%", "5%", "3%", "2%")
_RIVALS = ("coded_svd",)


def row_values(drift: Drift) -> list[list[float]]:
    """Return of each row whether its answer changes, 0 or 1, and its KL in nats."""
    changed = set(drift.row[drift.moved > drift.margin].tolist())
    kl = np.bincount(drift.row, drift.kl, drift.answers)
    return [[int(i in changed), float(f"{x:.4g}")] for i, x in enumerate(kl)]


def packed(rows: Sequence[Compressor], tasks: Tasks, place: Path) -> dict[str, ReadBack]:
    """Write all adapters by each method; what is there from an earlier call stays."""
    found = {}
    for row in rows:
        folder = place / row.label
        if not (folder / "done").is_file():
            pack(row, tasks, folder)
            (folder / "done").touch()
        found[row.label] = ReadBack(row, folder, list(tasks))
    return found


def mean_error(tasks: Tasks, read: ReadBack) -> float:
    """Return the relative error of dW, mean over the adapters."""
    errors = (relative_errors({x: tasks[x]}, {x: read[x]})[x] for x in tasks)
    return float(np.mean(list(errors)))


def measured(
    adapter: Adapter,
    methods: Mapping[str, ReadBack],
    loaded: tuple[Any, Any],
    args: argparse.Namespace,
) -> dict[str, list[list[float]]]:
    """Return the values of each row of an adapter, by method."""
    model, tokenizer = loaded
    original = {path: x.factors() for path, x in adapter.modules.items()}
    asked = prompts_of_rows(tokenizer, adapter, args.tasks, "test", args.rows)
    said = answered(model, tokenizer, asked, original, ANSWER_TOKENS)
    reference = reference_of(model, said, original)
    found = {}
    for label, read in methods.items():
        found[label] = row_values(drift_of(model, reference, read[adapter.name]))
        changed, kl = np.mean(found[label], axis=0)
        print(f"{adapter.name} {label}: {100 * changed:.1f} % changed, {kl:.5f} nats", flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: measure what the result file lacks."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("set")
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), help="of hydraopt")
    known = [x.name for x in registry.RIVALS if x.rows]
    parser.add_argument("--rivals", nargs="*", choices=known, default=list(_RIVALS))
    parser.add_argument("--only", nargs="+", metavar="NAME", help="score these adapters")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--output", type=Path, default=QUALITY)
    args = parser.parse_args(arguments)
    recipe, adapters = read_recipe(recipe_of(args.set)), original_adapters(args.set)
    scene = registry.Scene(len(adapters), max(m.r for x in adapters for m in x.modules.values()))
    rows = [ours(adapters, size) for size in args.sizes]
    for name in args.rivals:
        rows += importlib.import_module(f"benchmarks.rivals.{name}").rows(scene)
    code = package_hash("benchmarks/rivals")
    place = ROOT / "build" / "equal-kl" / f"{args.set}-{code[:12]}"
    tasks = tasks_of(adapters)
    methods = packed(rows, tasks, place)
    file = args.output / f"{args.set}.equal-kl.json"
    head = provenance(f"{args.set}: KL of hydraopt and of rivals by size", seed=0)
    about = {"count": args.rows, "code": code}
    before = json.loads(file.read_text()) if file.is_file() else {}
    if any(before.get(key) != value for key, value in about.items()):
        before = {"methods": {}, "rows": []}
    found: list[dict[str, Any]] = before["rows"]
    sizes: dict[str, Any] = before["methods"]
    fp16 = 2 * sum(x.numbers for x in adapters)
    for row in (x for x in rows if x.label not in sizes):
        size = folder_bytes(place / row.label)
        sizes[row.label] = {
            "method": row.method,
            "setting": row.setting,
            "bytes": size,
            "share": round(size / fp16, 6),
            "error": round(mean_error(tasks, methods[row.label]), 6),
        }
    head |= {**about, "methods": sizes}
    loaded = load_model(str(base_folder(recipe.base)))
    save_json(file, {**head, "rows": found}, "rows")
    for adapter in (x for x in adapters if not args.only or x.name in args.only):
        done = {x["method"] for x in found if x["adapter"] == adapter.name}
        todo = {label: read for label, read in methods.items() if label not in done}
        if todo:
            made = measured(adapter, todo, loaded, args)
            found += [{"adapter": adapter.name, "method": x, "values": y} for x, y in made.items()]
            save_json(file, {**head, "rows": found}, "rows")
