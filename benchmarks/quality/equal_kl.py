"""Measure KL, changed answers and scores of hydraopt and of rivals by size, on the same rows.

    python -m benchmarks.quality equal_kl SET --tasks TASKS [--rivals coded_svd svd_group]
    python -m benchmarks.quality equal_kl SET --tasks TASKS --prompts 300 [--alone NAME ...]

All adapters of SET are written by each method at each of its sizes and read back, as in
``benchmarks.rivals compare``; bytes are of the whole set. Then each adapter, or those of --only,
writes greedy answers to the first rows of the test split, as long as ``hydraopt eval`` has them. Of
every row the result has whether the answer changes in any token, KL in nats an answer, and the
numbers of the task's metric, for which changed answers are written anew.

With --prompts, hydraopt, and the coded SVD if it is among --rivals, are also trained to keep the
answers to so many prompts, the first rows of the validation split and then of the training split;
else nothing is given to a method but the adapters. --alone makes a set of a few adapters.

Saved after each adapter; a second call continues, and refuses a result of other adapters, rows or
code. Writes benchmarks/results/quality/SET.equal-kl.json, with --alone SET-alone.equal-kl.json.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import parser_of
from benchmarks.common import (
    QUALITY,
    ROOT,
    begun,
    joined,
    package_hash,
    provenance,
    rewriting,
    save_json,
)
from benchmarks.quality.prompts import prompts_hash, real_prompts
from benchmarks.quality.sets import SIZES, inputs_of, original_adapters, recipe_of
from benchmarks.rivals import registry
from benchmarks.rivals.base import (
    DEFAULT,
    Compressor,
    Modules,
    ReadBack,
    Tasks,
    relative_errors,
    tasks_of,
)
from benchmarks.rivals.coded_svd import taught_rows
from benchmarks.rivals.compare import ours
from benchmarks.rivals.taught import Round, taught
from hydraopt.adapters import Adapter
from hydraopt.evaluate.results import ORIGINAL
from hydraopt.evaluate.scores import most_tokens
from hydraopt.evaluate.tasks import TaskFile, metrics_of, named_task, read_task_file
from hydraopt.model import AnswerJudge, Encoded, TaskFactors, encode_row, load_model
from hydraopt.model.drift import Drift, Reference, drift_of, reference_of
from hydraopt.model.generation import answered
from zoo.bases import base_folder
from zoo.recipe import read_recipe

__all__ = ["main", "row_values"]

_RIVALS = ("coded_svd",)
_SAME = ("recipe", "base", "count", "code", "inputs")
"""What a result that is continued may not have changed."""


def row_values(drift: Drift) -> list[list[float]]:
    """Return of each row whether its answer changes, 0 or 1, and its KL in nats."""
    each = zip(drift.changes.tolist(), drift.kl_by_answer.tolist(), strict=True)
    return [[int(changed), float(f"{kl:.4g}")] for changed, kl in each]


def packed(rows: Sequence[Compressor], tasks: Tasks, parent: Path) -> dict[str, ReadBack]:
    """Write all adapters by each method; what is there from an earlier call stays.

    A folder is complete once it has its name, so that two calls may write the same.
    """
    found = {}
    parent.mkdir(parents=True, exist_ok=True)
    for row in rows:
        folder = parent / row.label
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=parent) as place:
                made = Path(place) / "made"
                made.mkdir()
                row.write(tasks, made)
                try:
                    made.rename(folder)
                except OSError:  # another call was faster
                    if not folder.is_dir():
                        raise
        found[row.label] = ReadBack(row, folder, list(tasks))
    return found


def mean_error(tasks: Tasks, read: ReadBack) -> float:
    """Return the relative error of dW, mean over the adapters."""
    errors = (relative_errors({x: tasks[x]}, {x: read[x]})[x] for x in tasks)
    return float(np.mean(list(errors)))


@dataclass(frozen=True)
class Scorer:
    """What adapters are measured with. loaded: base model and tokenizer. count: rows a task."""

    tasks: Path
    count: int
    loaded: tuple[Any, Any]

    def rows_of(self, adapter: Adapter) -> TaskFile:
        """Return the first rows of the adapter's task."""
        task, language, _ = named_task(adapter.name, adapter.source.parent, self.tasks)
        file = read_task_file(self.tasks, task, language, "test")
        return replace(file, rows=file.rows[: self.count])

    def asked(self, file: TaskFile) -> tuple[list[Encoded], int]:
        """Return the prompts of rows, and how many tokens an answer may have."""
        tokenizer = self.loaded[1]
        items = [encode_row(tokenizer, file.instruction, x.input, x.output) for x in file.rows]
        return [Encoded(x.prompt, ()) for x in items], most_tokens(items)

    def written(
        self, asked: Sequence[Encoded], factors: Sequence[TaskFactors], most: int
    ) -> list[Encoded]:
        """Return the prompts with greedy answers, each by its own factors."""
        said: list[Encoded] = list(asked)
        for own in {id(x): x for x in factors}.values():
            which = [i for i, x in enumerate(factors) if x is own]
            answers = answered(*self.loaded, [asked[i] for i in which], own, most)
            for i, answer in zip(which, answers, strict=True):
                said[i] = answer
        return said

    def reference(
        self, adapter: Adapter, asked: Sequence[Encoded], most: int
    ) -> tuple[list[Encoded], Reference]:
        """Return the prompts with the adapter's greedy answers, and what others are compared with
        on these."""
        original = tasks_of([adapter])[adapter.name]
        said = self.written(asked, [original] * len(asked), most)
        return said, reference_of(self.loaded[0], said, original)

    def numbers_of(self, file: TaskFile, said: Sequence[Encoded]) -> list[list[float]]:
        """Return the numbers of the task's metric for these answers."""
        metric, tokenizer = metrics_of(file.metric)[0], self.loaded[1]
        texts = [tokenizer.decode(x.target, skip_special_tokens=True).strip() for x in said]
        judged = zip(texts, file.rows, strict=True)
        return [[*map(float, metric.of_row(text, row, file.language))] for text, row in judged]


def measured(
    adapter: Adapter, methods: Mapping[str, ReadBack], scorer: Scorer
) -> dict[str, list[list[float]]]:
    """Return the values of each row of an adapter, by method and of the original."""
    model, file = scorer.loaded[0], scorer.rows_of(adapter)
    asked, most = scorer.asked(file)
    said, reference = scorer.reference(adapter, asked, most)
    factors = {label: read[adapter.name] for label, read in methods.items()}
    values = {}
    for label, x in factors.items():
        values[label] = row_values(drift_of(model, reference, x))
        share, kl = np.mean(values[label], axis=0)
        print(f"{adapter.name} {label}: {100 * share:.1f} % changed, {kl:.5f} nats", flush=True)
    changed = [(label, i) for label in values for i in range(len(said)) if values[label][i][0]]
    again = scorer.written([asked[i] for _, i in changed], [factors[x] for x, _ in changed], most)
    anew = dict(zip(changed, again, strict=True))
    found = {ORIGINAL: [[0.0, 0.0, *x] for x in scorer.numbers_of(file, said)]}
    for label, mine in values.items():
        now = [anew.get((label, i), x) for i, x in enumerate(said)]
        scored = scorer.numbers_of(file, now)
        found[label] = [[*x, *y] for x, y in zip(mine, scored, strict=True)]
    return found


def with_prompts(
    adapters: Sequence[Adapter],
    prompts: Mapping[str, Sequence[str]],
    args: argparse.Namespace,
    base: str,
    loaded: tuple[Any, Any],
) -> list[Compressor]:
    """Return the rows of the methods that learn from prompts, given by adapter."""
    originals = tasks_of(adapters)
    judge = AnswerJudge(base, adapters, prompts, refits=True, loaded=loaded)

    def teach(task: str, start: Modules, rounded: Round) -> Modules:
        answers, more = judge.answers(task), judge.training_answers(task)
        return taught(loaded[0], answers, originals[task], start, rounded, more=more)

    mine = [ours(adapters, size, judge.look) for size in args.learn_at]
    return [*mine, *(taught_rows(teach) if "coded_svd" in args.rivals else ())]


@dataclass(frozen=True)
class Stored:
    """The result file. head: what it is of, which may not differ."""

    file: Path
    head: Mapping[str, Any]

    def read(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return methods and rows so far. Raises SystemExit for a result of something else."""
        rows = begun(self.file, self.head, _SAME)
        before = json.loads(self.file.read_text()) if self.file.is_file() else {"methods": {}}
        return before["methods"], rows

    def add(self, methods: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        """Save these as well; another call may have saved others meanwhile."""
        with rewriting(self.file):
            known, found = self.read()
            save_json(
                self.file,
                {
                    **self.head,
                    "methods": {**known, **methods},
                    "rows": joined(found, rows, ("adapter", "method")),
                },
                "rows",
            )

    def check(self, label: str, about: Mapping[str, Any]) -> None:
        """Raise SystemExit if rows of a label are of other files."""
        before = self.read()[0].get(label, about)
        if before != about:
            raise SystemExit(f"{self.file.name} has another {label}; remove it first")


def noted(row: Compressor, read: ReadBack, tasks: Tasks, fp16: int, prompts: int) -> dict[str, Any]:
    """Return what the result says of a method and size. prompts: of a task, that it learnt from."""
    return {
        **({"prompts": prompts} if prompts else {}),
        "method": row.method,
        "setting": row.setting,
        "bytes": read.bytes,
        "share": round(read.bytes / fp16, 6),
        "error": round(mean_error(tasks, read), 6),
    }


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of(__name__, __doc__)
    parser.add_argument("set")
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), help="of hydraopt")
    parser.add_argument("--rivals", nargs="*", choices=[*registry.RIVALS], default=list(_RIVALS))
    parser.add_argument(
        "--labels", nargs="+", default=[""], metavar="TEXT", help="sizes of rivals with this text"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="score these adapters")
    parser.add_argument("--alone", nargs="+", metavar="NAME", help="a set of these adapters")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=0, metavar="N", help="of a task, to learn")
    parser.add_argument(
        "--learn-at", nargs="+", default=["3%"], metavar="SIZE", help="of hydraopt with prompts"
    )
    parser.add_argument("--output", type=Path, default=QUALITY)
    return parser.parse_args(arguments)


def methods_of(
    args: argparse.Namespace, adapters: Sequence[Adapter], base: str, prefix: str, loaded: Any
) -> tuple[dict[str, ReadBack], dict[str, Any]]:
    """Return the methods by label, and what the result says of each.

    prefix: first part of the names of the folders that they are written to.
    """
    rank = max(m.r for x in adapters for m in x.modules.values())
    rows = [ours(adapters, None if size == DEFAULT else size) for size in args.sizes]
    for rival in args.rivals:
        theirs = importlib.import_module(f"benchmarks.rivals.{rival}")
        found = theirs.rows(registry.SetShape(len(adapters), rank))
        rows += [x for x in found if any(text in x.label for text in args.labels)]
    groups = [(0, "0", rows)]
    if args.prompts:
        prompts = {x.name: real_prompts(x, args.tasks, args.prompts) for x in adapters}
        learnt = with_prompts(adapters, prompts, args, base, loaded)
        groups.append((args.prompts, prompts_hash(prompts), learnt))
    tasks, fp16 = tasks_of(adapters), 2 * sum(x.numbers for x in adapters)
    methods, about = dict[str, ReadBack](), dict[str, Any]()
    for count, asked, some in groups:
        read = packed(some, tasks, ROOT / "build" / "equal-kl" / f"{prefix}-{asked}")
        methods |= read
        about |= {x.label: noted(x, read[x.label], tasks, fp16, count) for x in some}
    return methods, about


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: measure what the result file lacks."""
    args = _arguments(arguments)
    recipe, adapters = read_recipe(recipe_of(args.set)), original_adapters(args.set)
    adapters = [x for x in adapters if not args.alone or x.name in args.alone]
    name = f"{args.set}{'-alone' if args.alone else ''}"
    code, inputs = package_hash("benchmarks/rivals"), inputs_of(adapters)
    head = provenance(f"{name}: KL of hydraopt and of rivals by size", seed=0)
    head |= {"recipe": args.set, "base": recipe.base, "count": args.rows}
    stored = Stored(args.output / f"{name}.equal-kl.json", {**head, "code": code, "inputs": inputs})
    stored.read()
    base = str(base_folder(recipe.base))
    scorer = Scorer(args.tasks, args.rows, load_model(base))
    methods, about = methods_of(args, adapters, base, f"{name}-{code}-{inputs}", scorer.loaded)
    for label, what in about.items():
        stored.check(label, what)
    stored.add(about, [])
    for adapter in (x for x in adapters if not args.only or x.name in args.only):
        add_adapter(stored, adapter, methods, scorer)


def add_adapter(
    stored: Stored, adapter: Adapter, methods: Mapping[str, ReadBack], scorer: Scorer
) -> None:
    """Measure what the result lacks of an adapter, and save it."""
    file = scorer.rows_of(adapter)
    about = {"adapter": adapter.name, "metric": metrics_of(file.metric)[0].name, "of": file.sha256}
    known = [x for x in stored.read()[1] if x["adapter"] == adapter.name]
    if any(x["of"] != file.sha256 for x in known):
        raise SystemExit(f"{stored.file.name} has other rows of {adapter.name}; remove it first")
    done = {x["method"] for x in known}
    todo = {label: read for label, read in methods.items() if label not in done}
    if todo:
        made = {x: y for x, y in measured(adapter, todo, scorer).items() if x not in done}
        stored.add({}, [{**about, "method": x, "values": y} for x, y in made.items()])
