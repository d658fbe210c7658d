"""Measure every rival on a set: bytes on disk, error, seconds and memory, then task scores.

    python -m benchmarks.quality methods SET --tune --tasks TASKS [--rows 32] [--only ADAPTER ...]
    python -m benchmarks.quality methods SET [--plan rivals|map] [--peers]
    python -m benchmarks.quality methods SET --score --tasks TASKS [--rows 128] [--ours 10% 5%]

Without ``--score`` no model is needed: every row of the plan (benchmarks/rivals/registry.py)
writes all adapters of the set into a folder below build/, in a process of its own, and reads them
back; ``--peers`` adds lorashare and vlora-dev, each in its own environment, failures recorded.
``--ours`` adds hydraopt's own bundles of these sizes, which evidence.py scores too, to compare all
on the very same rows. ``--score`` then has every task answered with what was read back.
The result is benchmarks/results/quality/SET.PLAN.json.

``--tune`` comes first, or never: it merges by each method at a small grid of options (harness/
tuning.py) and writes the loss of each on validation rows of a few adapters, those of ``--only`` or
one in each fifth of the set, to SET.tuned.json. Where that file is, the plan "rivals" takes the
best options instead of the defaults, and the rows say so.

All go on where they stopped, and rows that changed are made and scored again. ``--adapters N``
takes the first N adapters, ``--only TEXT`` the rows whose label holds the text; both are for trying
things out, with ``--out`` (and ``--tuned FILE``, which a set cut short does not look up by itself).
``--of ADAPTER ...`` takes these adapters alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, ROOT, provenance, save_json
from benchmarks.quality.evidence import original_adapters, request_for, those_of
from benchmarks.quality.harness.building import (
    Note,
    in_a_process,
    inputs_of,
    made,
    measured,
)
from benchmarks.quality.harness.peers import kept_peers, peer_rows
from benchmarks.quality.harness.scoring import Result, scored, stale, with_aliases
from benchmarks.quality.harness.tuning import (
    GRIDS,
    chosen,
    trials,
    tune,
    tuned_options,
)
from benchmarks.quality.sets import SETS
from benchmarks.rivals import registry
from benchmarks.rivals.base import Compressor, ReadBack, tasks_of
from benchmarks.rivals.compare import ours
from benchmarks.rivals.heads import head_map
from benchmarks.rivals.registry import Scene
from hydraopt.adapters import Adapter
from hydraopt.basemodel.model import load_model
from hydraopt.basemodel.products import products_of
from hydraopt.evaluate.run import TaskRows, encode_task
from hydraopt.evaluate.taskfile import named_task, read_task_file

__all__ = ["Run", "main", "rows_of"]

_LARGEST = 105.0
"""Percent of the fp16 numbers; the adapters' own files have headers."""
_TUNED_ON = 5
"""Adapters whose validation rows decide, unless they are named."""
_ROWS = {True: 32, False: 128}
"""Rows of a task, when tuning and when scoring."""


@dataclass(frozen=True)
class Run:
    """What a call works on. place: the folder of the rows' folders. out: the result file."""

    args: argparse.Namespace
    adapters: Sequence[Adapter]
    rows: Sequence[Compressor]
    inputs: str
    place: Path
    out: Path

    @classmethod
    def of(cls, args: argparse.Namespace) -> Run:
        adapters = those_of(original_adapters(args.set), args.of)[: args.adapters]
        inputs = inputs_of(adapters)
        plan = "tuned" if args.tune else args.plan
        if args.tune:
            rows = [row for _, _, row in trials(_rank(adapters), args.methods).values()]
        else:
            tuned = tuned_options(args.tuned, inputs) if args.tuned else {}
            made = rows_of(args.plan, adapters, tuned)
            rows = [row for row in made if any(text in row.label for text in args.only or [""])]
            rows += [ours(adapters, size) for size in args.ours]
        place = ROOT / "build" / "methods" / args.set / f"{plan}-{inputs}"
        out = args.out or QUALITY / f"{args.set}.{plan}.json"
        return cls(args, adapters, rows, inputs, place, out)

    @property
    def arguments(self) -> list[str]:
        """Those by which another process sees the same rows."""
        first = ["--adapters", str(self.args.adapters)] if self.args.adapters else []
        first += ["--of", *self.args.of] if self.args.of else []
        if self.args.tune:
            return [self.args.set, "--tune", *first]
        tuned = ["--tuned", str(self.args.tuned)] if self.args.tuned else []
        sizes = ["--ours", *self.args.ours] if self.args.ours else []
        return [self.args.set, "--plan", self.args.plan, *tuned, *sizes, *first]

    def before(self) -> Mapping[str, Any]:
        """What an earlier call left; empty if there was none."""
        found: Mapping[str, Any] = json.loads(self.out.read_text()) if self.out.is_file() else {}
        return found

    def built(self) -> dict[str, Note]:
        """The rows' notes by label, each row built in a process of its own."""
        builder = in_a_process(["benchmarks.quality", "methods", *self.arguments])
        return dict(made(self.rows, self.place, builder, self.inputs))


def rows_of(
    plan: str, adapters: Sequence[Adapter], tuned: Mapping[str, Mapping[str, float]]
) -> list[Compressor]:
    """The rows of a plan for these adapters; ``tuned``: by method, options that "rivals" takes."""
    if plan == "map":
        return head_map(len(adapters), _rank(adapters))
    return registry.rows_of(Scene(len(adapters), _rank(adapters), tuned))


def _rank(adapters: Sequence[Adapter]) -> int:
    return max(module.r for adapter in adapters for module in adapter.modules.values())


def one(run: Run) -> None:
    """Build one row in this process and print its note."""
    label, folder = run.args.one
    row = next(row for row in run.rows if row.label == label)
    print(json.dumps(measured(row, run.adapters, Path(folder))))


def _refuse_others(run: Run, before: Mapping[str, Any]) -> dict[str, str]:
    """The hashes of the adapters; SystemExit where the result that is there is of others, or was
    scored on other rows than these."""
    hashes = {adapter.name: adapter.content_hash() for adapter in run.adapters}
    if before.get("adapters", hashes) != hashes:
        raise SystemExit(f"{run.out.name} is of other adapters; remove it first, or give --out")
    scored = before.get("limits", {}).get("rows"), before.get("products")
    if before.get("tasks") and run.args.score and scored != (run.args.rows, run.args.products):
        raise SystemExit(f"{run.out.name} was scored with other rows or products; remove it first")
    return hashes


def build(run: Run) -> tuple[list[Compressor], Result]:
    """All rows, peers included, and the result with the scores that still hold. What an earlier
    call made, and this one was not asked for, stays."""
    started = time.monotonic()
    before = run.before()
    hashes = _refuse_others(run, before)
    rows = list(run.rows)
    notes = run.built()
    ask = peer_rows(run.adapters, run.place) if run.args.peers else kept_peers(before, run.place)
    for row, note in ask:
        rows.append(row)
        notes[row.label] = note
    held = {**before.get("methods", {}), **before.get("failures", {})}
    notes = {**{label: note for label, note in held.items() if label not in notes}, **notes}
    methods = {label: note for label, note in notes.items() if "failed" not in note}
    origin = provenance(f"{run.args.set}: {run.args.plan}", seed=0)
    result: Result = {
        **before,
        "schema": "hydraopt.eval/1",
        "set": run.args.set,
        "plan": run.args.plan,
        "command": origin["command"],
        "hardware": origin["hardware"],
        "versions": origin["versions"],
        "adapters": hashes,
        "fp16_bytes": 2 * sum(adapter.numbers for adapter in run.adapters),
        "methods": methods,
        "failures": {label: note for label, note in notes.items() if "failed" in note},
        "guess": [],
        "tasks": [stale(t, before["methods"], methods) for t in before.get("tasks", ())],
        "seconds": round(before.get("seconds", 0.0) + time.monotonic() - started, 1),
    }
    save_json(run.out, result)
    print(f"{len(methods)} rows, {len(result['failures'])} failed: {run.out.name}", flush=True)
    return rows, result


def score(run: Run, rows: Sequence[Compressor], result: Result) -> None:
    """Score what ``result`` has no scores of; it is saved after every task."""
    args, methods = run.args, result["methods"]
    started = time.monotonic()
    # What takes more room than the adapters' files is no compressor; its errors are in the result.
    live = [r for r in rows if r.label in methods and methods[r.label]["size_pct"] <= _LARGEST]
    names = [adapter.name for adapter in run.adapters]
    others = {r.label: ReadBack(r, run.place / r.label, names) for r in live if not r.same_as}

    def keep(head: Mapping[str, Any], tasks: list[Result]) -> None:
        done = [with_aliases(task, live) for task in tasks]
        seconds = round(result["seconds"] + time.monotonic() - started, 1)
        save_json(run.out, {**result, **head, "tasks": done, "seconds": seconds})
        print(f"{len(done)}/{len(names)} {done[-1]['adapter']}, {seconds:.0f} s", flush=True)

    request = request_for(args.set, args.tasks, args.rows, args.products)
    scored(run.adapters, others, request, result["tasks"], keep)


def tune_all(run: Run) -> None:
    """Score every trial on validation rows and write what was tried and what was best."""
    args, started, before = run.args, time.monotonic(), run.before()
    judges = _judges(run.adapters, args.only)
    request = dataclasses.replace(
        request_for(args.set, args.tasks, args.rows, args.products), split="validation"
    )
    names = [adapter.name for adapter in run.adapters]
    notes = run.built()
    built = {
        label: (method, options, ReadBack(row, run.place / label, names), notes[label]["sha256"])
        for label, (method, options, row) in trials(_rank(run.adapters), args.methods).items()
        if "failed" not in notes[label]
    }
    if not built:
        raise SystemExit(f"nothing was built: {next(iter(notes.values()))['failed']}")
    model, tokenizer = load_model(request.base)
    rows: dict[str, TaskRows] = {}
    for adapter in judges:
        task, language, _ = named_task(adapter.name, adapter.source.parent, args.tasks)
        file = read_task_file(args.tasks, task, language, request.split)
        rows[adapter.name] = encode_task(file, tokenizer, request.rows, request.tokens)
    origin = provenance(f"{args.set}: options of the methods, tuned", seed=0)
    head: Result = {
        "schema": "hydraopt.tuned/1",
        "set": args.set,
        "split": request.split,
        "inputs": run.inputs,
        "judges": {
            name: {"rows": len(x.rows), "sha256": x.task.sha256} for name, x in rows.items()
        },
        "products": request.products,
        **{key: origin[key] for key in ("command", "hardware", "versions")},
    }
    changed = [k for k in ("inputs", "judges", "products") if before and before[k] != head[k]]
    if changed:
        raise SystemExit(f"{run.out.name} has other {', '.join(changed)}; remove it first")

    def keep(tried: list[dict[str, Any]]) -> None:
        found = {
            "tuned": chosen(tried, len(names)),
            "tried": tried,
            "failures": {label: note for label, note in notes.items() if "failed" in note},
            "seconds": round(before.get("seconds", 0.0) + time.monotonic() - started, 1),
        }
        save_json(run.out, {**head, **found})
        print(f"{len(tried)} trials, {found['seconds']:.0f} s", flush=True)

    with products_of(request.products):
        known = before.get("tried", ())
        tune(built, tasks_of(judges), rows, (model, tokenizer), len(names), known, keep)


def _judges(adapters: Sequence[Adapter], named: Sequence[str]) -> list[Adapter]:
    """The adapters that are scored when tuning: those named, else some from all over the set."""
    by_name = {adapter.name: adapter for adapter in adapters}
    unknown = sorted(set(named) - set(by_name))
    if unknown:
        raise SystemExit(
            f"no such adapters: {', '.join(unknown)}\n  expected: {', '.join(by_name)}"
        )
    if named:
        return [by_name[name] for name in named]
    last, count = len(adapters) - 1, min(_TUNED_ON, len(adapters))
    return [adapters[round(i * last / max(count - 1, 1))] for i in range(count)]


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of(__name__, __doc__)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--plan", choices=("rivals", "map"), default="rivals")
    parser.add_argument("--peers", action="store_true", help="lorashare and vlora-dev as well")
    parser.add_argument("--score", action="store_true")
    parser.add_argument("--tasks", type=Path)
    parser.add_argument("--rows", type=int, help="of a task; default 128, with --tune 32")
    parser.add_argument("--products", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--adapters", type=int, help="the first N adapters alone")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="TEXT",
        help="rows whose label holds one of these; with --tune, adapters",
    )
    parser.add_argument(
        "--of", nargs="+", default=[], metavar="ADAPTER", help="these alone; * stands for any text"
    )
    parser.add_argument("--ours", nargs="+", default=[], metavar="SIZE", help="hydraopt's own rows")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--methods", nargs="+", choices=GRIDS, default=[*GRIDS], metavar="METHOD")
    parser.add_argument("--tuned", type=Path, help="default SET.tuned.json beside the results")
    parser.add_argument("--out", type=Path, help="default benchmarks/results/quality/SET.PLAN.json")
    parser.add_argument("--one", nargs=2, metavar=("LABEL", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.one:
        return args
    if (args.score or args.tune) and not args.tasks:
        parser.error("--score and --tune need --tasks")
    if args.tuned and not args.tuned.is_file():
        parser.error(f"--tuned {args.tuned}: no such file")
    if (args.adapters or args.of or (args.only and not args.tune)) and not args.out:
        parser.error("--adapters, --of and --only need --out: they are no result of the set")
    if not args.tuned and not (args.adapters or args.of):
        args.tuned = QUALITY / f"{args.set}.tuned.json"
    args.rows = args.rows or _ROWS[args.tune]
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    run = Run.of(_arguments(arguments))
    if run.args.one:
        one(run)
        return
    if run.args.tune:
        tune_all(run)
        return
    rows, result = build(run)
    if run.args.score:
        score(run, rows, result)
