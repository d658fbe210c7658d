"""Measure bytes of trained heads, and labels that flip when heads are rounded.

    python -m benchmarks.quality heads --tasks TASKS --rows 300

Four text classifications of SmolLM2-135M with a head each (zoo/recipes/smollm2-cls4.json), scored
as `hydraopt eval` does; the published tables have 300 rows of each. Writes
benchmarks/results/quality/heads.json.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, provenance, save_json
from benchmarks.rivals.numbers import grouped
from hydraopt import merge, open_bundle
from hydraopt.adapters import Adapter, read_adapters
from hydraopt.basemodel.model import load_model
from hydraopt.errors import BudgetError
from hydraopt.evaluate.classify import (
    Classifier,
    encode_texts,
    labels_in,
    run_classification,
    saved_tensors,
)
from hydraopt.evaluate.compared import ORIGINAL
from hydraopt.evaluate.results import task_result
from hydraopt.evaluate.run import TaskRows
from hydraopt.evaluate.taskfile import read_task_file
from hydraopt.inspect import inspect_bundle
from hydraopt.jsonvalues import to_json

__all__ = ["heads_rounded", "main", "without_head"]

BASE = "smollm2-135m-instruct"
SIZES = ("10%", "5%")
BITS = (8, 4)

Saved = Mapping[str, NDArray[np.float32]]


def without_head(adapter: Adapter) -> Adapter:
    """Return an adapter with the low-rank modules alone."""
    tensors = {key: x for key, x in adapter.tensors.items() if key not in adapter.extras}
    config = {**adapter.config, "modules_to_save": None, "task_type": None}
    return replace(adapter, extras={}, extra_kinds={}, tensors=tensors, config=config)


def heads_rounded(saved: Saved, bits: int) -> tuple[dict[str, NDArray[np.float32]], int]:
    """Return the saved tensors in groups of few bits, and the bytes that takes."""
    made, taken = {}, 0
    for path, x in saved.items():
        code = grouped(bits)
        arrays = code.encode([x.ravel()])
        taken += sum(part.nbytes for part in arrays.values())
        made[path] = code.decode(arrays, [x.size])[0].reshape(x.shape)
    return made, taken


class Scored:
    """The adapters and their rows; a base with a head of as many labels for each."""

    def __init__(self, adapters: Sequence[Adapter], tasks: Path, base: str, rows: int | None):
        self.adapters = {x.name: x for x in adapters}
        self.saved = {x.name: saved_tensors(x.name, x.extras, x.extra_kinds) for x in adapters}
        self._tasks, self._base, self._most = tasks, base, rows
        self._loaded: dict[int, tuple[Any, Any]] = {}

    def original(self, name: str) -> Classifier:
        """Return the adapter as it is."""
        modules = self.adapters[name].modules
        return Classifier({p: x.factors() for p, x in modules.items()}, self.saved[name])

    def rows(self, name: str) -> tuple[Any, TaskRows]:
        """Return the base with a head of as many labels, and the adapter's test rows."""
        labels = labels_in(name, self.saved[name])
        if labels not in self._loaded:
            self._loaded = {labels: load_model(self._base, labels=labels)}
        model, tokenizer = self._loaded[labels]
        task, _, language = name.rpartition("-")
        return model, encode_texts(
            read_task_file(self._tasks, task, language), tokenizer, labels, self._most
        )

    def score(self, name: str, sets: Mapping[str, Classifier]) -> dict[str, Any]:
        """Return what `hydraopt eval` says of the adapter and these sets."""
        model, rows = self.rows(name)
        everything = {ORIGINAL: self.original(name), **sets}
        scores = run_classification(model, rows, everything, ORIGINAL)
        result: dict[str, Any] = to_json(task_result(name, rows, scores, 0))
        return result


def factors_of(path: Path, name: str) -> dict[str, Any]:
    return {p: (x.B, x.A) for p, x in open_bundle(path)[name].factors().items()}


def ways(scored: Scored, size: str, folder: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield (row, classifiers by adapter) of every way to a size; no classifiers if refused."""
    adapters = list(scored.adapters.values())
    budget = int(sum(2 * x.numbers for x in adapters) * float(size.rstrip("%")) / 100)
    for way, exact in (("hydraopt", ()), ("hydraopt, heads bit by bit", ("*score*",))):
        path = folder / f"{way}-{size}"
        try:
            merge(adapters, path, size=size, exact=exact)
        except BudgetError as error:
            yield {"way": way, "size": size, "refused": str(error)}, None
            continue
        bundle = open_bundle(path)
        sets = {}
        for name in scored.adapters:
            task = bundle[name]
            saved = saved_tensors(name, task.extras, task.extra_kinds)
            sets[name] = Classifier(factors_of(path, name), saved)
        parts = dict(inspect_bundle(path).parts)
        coded = sum(sum(bundle[name].tensor_bytes().values()) for name in scored.adapters)
        row = {"way": way, "size": size, "bytes": path.stat().st_size}
        yield {**row, "head_bytes": coded + parts["carried"], "parts": parts}, sets
    alone = [without_head(x) for x in adapters]
    for bits in BITS:
        rounded = {name: heads_rounded(x, bits) for name, x in scored.saved.items()}
        taken = sum(count for _, count in rounded.values())
        path = folder / f"{bits}-{size}"
        row = {"way": f"heads in {bits} bits", "size": size}
        try:
            merge(alone, path, size=max(1, budget - taken))
        except BudgetError as error:
            yield {**row, "refused": str(error)}, None
            continue
        row |= {"bytes": path.stat().st_size + taken, "head_bytes": taken}
        yield (
            row,
            {n: Classifier(factors_of(path, n), rounded[n][0]) for n in scored.adapters},
        )


def compare(scored: Scored, folder: Path) -> list[dict[str, Any]]:
    """Return a row for every way and size: bytes, and what eval says of each adapter."""
    made = [one for size in SIZES for one in ways(scored, size, folder)]
    for name in scored.adapters:
        sets = {f"{i}": x[name] for i, (_, x) in enumerate(made) if x is not None}
        result = scored.score(name, sets)
        for i, (row, x) in enumerate(made):
            if x is not None:
                row.setdefault("tasks", {})[name] = result["results"][f"{i}"]
                row.setdefault("originals", {})[name] = result["results"][ORIGINAL]["scores"]
                row["rows"] = row.get("rows", 0) + result["rows"]
    for row, _ in made:
        if "tasks" in row:
            row["flips"] = sum(x["changed"] for x in row["tasks"].values())
            row["kl"] = float(np.mean([x["kl"] for x in row["tasks"].values()]))
    return [row for row, _ in made]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--adapters", default="zoo/adapters/smollm2-cls4/*")
    parser.add_argument("--base", help="folder of the base; default: from its package")
    parser.add_argument("--rows", type=int, help="at most so many test rows of a task")
    parser.add_argument("--output", type=Path, default=QUALITY)
    args = parser.parse_args(arguments)
    if args.base is None:
        from zoo.bases import base_folder

        args.base = str(base_folder(BASE))
    scored = Scored(list(read_adapters([args.adapters])), args.tasks, args.base, args.rows)
    with tempfile.TemporaryDirectory() as scratch:
        head = provenance("bundles of classifiers with heads, and rivals", seed=0)
        rows = compare(scored, Path(scratch))
        save_json(args.output / "heads.json", {**head, "rows": rows})
        for row in rows:
            print({key: x for key, x in row.items() if key not in ("tasks", "originals")})
