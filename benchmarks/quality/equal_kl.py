"""Measure KL, changed answers and scores of hydraopt and of rivals by size, on the same rows.

    python -m benchmarks.quality equal_kl SET --tasks TASKS [--rivals coded_svd svd_group]
    python -m benchmarks.quality equal_kl SET --tasks TASKS --only NAME ... --prompts 300

All adapters of SET are written by each method at each of its sizes and read back, as in
``benchmarks.rivals compare``; bytes are of the whole set. Then each adapter, or those of --only,
writes greedy answers to the first rows of the test split, at most 128 tokens each. Of every row the
result has whether the answer changes in any token, KL in nats an answer, and the numbers of the
task's metric, for which changed answers are written to their end.

Nothing is given to a method but the adapters. With --prompts, hydraopt and the coded SVD are also
trained to keep the answers of the scored adapters to so many prompts, the first rows of the
validation split and then of the training split.

Saved after each adapter; a second call continues. Writes
benchmarks/results/quality/SET.equal-kl.json.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, ROOT, package_hash, provenance, save_json
from benchmarks.quality.evidence import original_adapters
from benchmarks.quality.few_prompts import real_prompts
from benchmarks.quality.harness.judging import prompts_of_rows
from benchmarks.quality.sets import DEFAULT, recipe_of
from benchmarks.rivals import registry
from benchmarks.rivals.base import (
    Compressor,
    Modules,
    ReadBack,
    Tasks,
    pack,
    relative_errors,
    tasks_of,
)
from benchmarks.rivals.coded_svd import taught_rows
from benchmarks.rivals.compare import ours
from benchmarks.rivals.taught import Round, taught
from hydraopt.adapters import Adapter
from hydraopt.basemodel.encoding import Encoded
from hydraopt.basemodel.memory import key_of
from hydraopt.basemodel.model import TaskFactors, load_model
from hydraopt.basemodel.writing import answered
from hydraopt.bundle.harm import ANSWER_TOKENS
from hydraopt.evaluate.compare import ORIGINAL
from hydraopt.evaluate.metrics import metrics_of
from hydraopt.evaluate.taskfile import TaskFile, named_task, read_task_file
from hydraopt.harm.drift import Drift, drift_of, reference_of
from hydraopt.harm.judge import AnswerJudge
from zoo.bases import base_folder
from zoo.recipe import read_recipe

__all__ = ["main", "row_values"]

SIZES = (DEFAULT, "10%", "5%", "3%", "2%")
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
            shutil.rmtree(folder, ignore_errors=True)  # of a call that was interrupted
            pack(row, tasks, folder)
            (folder / "done").touch()
        found[row.label] = ReadBack(row, folder, list(tasks))
    return found


def mean_error(tasks: Tasks, read: ReadBack) -> float:
    """Return the relative error of dW, mean over the adapters."""
    errors = (relative_errors({x: tasks[x]}, {x: read[x]})[x] for x in tasks)
    return float(np.mean(list(errors)))


@dataclass(frozen=True)
class Scene:
    """What adapters are measured with. loaded: base model and tokenizer. count: rows a task."""

    tasks: Path
    count: int
    loaded: tuple[Any, Any]

    def rows_of(self, adapter: Adapter) -> TaskFile:
        """Return the first rows of the adapter's task."""
        task, language, _ = named_task(adapter.name, adapter.source.parent, self.tasks)
        file = read_task_file(self.tasks, task, language, "test")
        return replace(file, rows=file.rows[: self.count])

    def written(self, asked: Sequence[Encoded], factors: TaskFactors) -> list[Encoded]:
        return answered(*self.loaded, asked, factors, ANSWER_TOKENS)

    def numbers_of(self, file: TaskFile, said: Sequence[Encoded]) -> list[list[float]]:
        """Return the numbers of the task's metric for these answers."""
        metric, tokenizer = metrics_of(file.metric)[0], self.loaded[1]
        texts = [tokenizer.decode(x.target, skip_special_tokens=True).strip() for x in said]
        judged = zip(texts, file.rows, strict=True)
        return [[*map(float, metric.of_row(text, row, file.language))] for text, row in judged]


def measured(
    adapter: Adapter, methods: Mapping[str, ReadBack], scene: Scene
) -> dict[str, list[list[float]]]:
    """Return the values of each row of an adapter, by method and of the original."""
    model, tokenizer = scene.loaded
    original = {path: x.factors() for path, x in adapter.modules.items()}
    file = scene.rows_of(adapter)
    asked = prompts_of_rows(tokenizer, adapter, scene.tasks, "test", scene.count)
    said = scene.written(asked, original)
    reference = reference_of(model, said, original)
    numbers = scene.numbers_of(file, said)
    found = {ORIGINAL: [[0.0, 0.0, *x] for x in numbers]}
    for label, read in methods.items():
        factors = read[adapter.name]
        values = row_values(drift_of(model, reference, factors))
        now, changed = list(said), [i for i, (changes, _) in enumerate(values) if changes]
        if changed:
            again = scene.written([asked[i] for i in changed], factors)
            now = [dict(zip(changed, again, strict=True)).get(i, x) for i, x in enumerate(said)]
        scored = scene.numbers_of(file, now)
        found[label] = [[*x, *y] for x, y in zip(values, scored, strict=True)]
        share, kl = np.mean(values, axis=0)
        print(f"{adapter.name} {label}: {100 * share:.1f} % changed, {kl:.5f} nats", flush=True)
    return found


def with_prompts(
    adapters: Sequence[Adapter], names: Sequence[str], args: argparse.Namespace, scene: Scene
) -> list[Compressor]:
    """Return the rows of the methods that learn from prompts of the adapters with these names."""
    by_name = {x.name: x for x in adapters}
    prompts = {name: real_prompts(by_name[name], args.tasks, args.prompts) for name in names}
    judge = AnswerJudge(args.base, adapters, prompts, refits=True, loaded=scene.loaded)

    def teach(task: str, start: Modules, rounded: Round) -> Modules:
        if task not in prompts:
            return start
        original = {path: x.factors() for path, x in by_name[task].modules.items()}
        answers, more = judge.answers(task), judge.lessons(task)
        return taught(scene.loaded[0], answers, original, start, rounded, more=more)

    return [*(ours(adapters, size, judge.look) for size in args.sizes), *taught_rows(teach)]


def noted(
    row: Compressor, read: ReadBack, tasks: Tasks, fp16: int, learned: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the result says of a method and size. learned: from which prompts."""
    return {
        "method": row.method,
        "setting": row.setting,
        "bytes": read.bytes,
        "share": round(read.bytes / fp16, 6),
        "error": round(mean_error(tasks, read), 6),
        **learned,
    }


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of(__name__, __doc__)
    parser.add_argument("set")
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), help="of hydraopt")
    known = [x.name for x in registry.RIVALS if x.rows]
    parser.add_argument("--rivals", nargs="*", choices=known, default=list(_RIVALS))
    parser.add_argument("--labels", nargs="+", default=[""], metavar="TEXT", help="these of them")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="score these adapters")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=0, metavar="N", help="and methods with N")
    parser.add_argument("--output", type=Path, default=QUALITY)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: measure what the result file lacks."""
    args = _arguments(arguments)
    recipe, adapters = read_recipe(recipe_of(args.set)), original_adapters(args.set)
    scored = [x for x in adapters if not args.only or x.name in args.only]
    args.base = str(base_folder(recipe.base))
    scene = Scene(args.tasks, args.rows, load_model(args.base))
    rank = max(m.r for x in adapters for m in x.modules.values())
    rows = [ours(adapters, None if size == DEFAULT else size) for size in args.sizes]
    for name in args.rivals:
        module = importlib.import_module(f"benchmarks.rivals.{name}")
        theirs = module.rows(registry.Scene(len(adapters), rank))
        rows += [x for x in theirs if any(text in x.label for text in args.labels)]
    code = package_hash("benchmarks/rivals")
    place = ROOT / "build" / "equal-kl" / f"{args.set}-{code[:12]}"
    tasks = tasks_of(adapters)
    methods = packed(rows, tasks, place)
    learn = {"prompts": args.prompts, "of": [x.name for x in scored]}
    learners = with_prompts(adapters, learn["of"], args, scene) if args.prompts else []
    methods |= packed(learners, tasks, place / f"prompts-{key_of([str(learn)])[:12]}")
    file = args.output / f"{args.set}.equal-kl.json"
    head = provenance(f"{args.set}: KL of hydraopt and of rivals by size", seed=0)
    about = {"count": args.rows, "code": code}
    before = json.loads(file.read_text()) if file.is_file() else {}
    if any(before.get(key) != value for key, value in about.items()):
        before = {"methods": {}, "rows": []}
    found: list[dict[str, Any]] = before["rows"]
    sizes: dict[str, Any] = before["methods"]
    fp16 = 2 * sum(x.numbers for x in adapters)
    for row in (*rows, *learners):
        learned = learn if row in learners else {}
        if row.label not in sizes:
            sizes[row.label] = noted(row, methods[row.label], tasks, fp16, learned)
        elif any(sizes[row.label][key] != value for key, value in learned.items()):
            raise SystemExit(f"{file.name}: {row.label} has other prompts; remove it first")
    head |= {**about, "methods": sizes}
    save_json(file, {**head, "rows": found}, "rows")
    for adapter in scored:
        done = {x["method"] for x in found if x["adapter"] == adapter.name}
        todo = {label: read for label, read in methods.items() if label not in done}
        if todo:
            made = measured(adapter, todo, scene)
            metric = metrics_of(scene.rows_of(adapter).metric)[0].name
            about_it = {"adapter": adapter.name, "metric": metric}
            found += [
                {**about_it, "method": label, "values": values}
                for label, values in made.items()
                if label not in done
            ]
            save_json(file, {**head, "rows": found}, "rows")
