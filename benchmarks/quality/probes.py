"""Measure changes of choices on probes of stereotypes.

    python -m benchmarks.quality probes SET --tasks TASKS --data PROBES... [--items 32]

The base, the original adapters, bundles of 10, 5 and 2 %, and HydraOpt as published with four
heads, about the bytes of the 5 % bundle of forty tasks, answer the same. PROBES are files and
folders in the format of docs/reference/evaluation.md; probe_sets makes them. Saved after every
task, beside the other tasks in the file; a second call continues.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, ROOT, package_hash, provenance, save_json
from benchmarks.quality.equal_kl import packed
from benchmarks.quality.sets import inputs_of, original_adapters, recipe_of
from benchmarks.rivals.base import ReadBack, tasks_of
from benchmarks.rivals.compare import ours
from benchmarks.rivals.heads import heads
from hydraopt.adapters import Adapter
from hydraopt.evaluate.compare import Compared, EvaluationRequest, evaluate
from hydraopt.evaluate.results import Evaluation
from hydraopt.evaluate.taskfile import named_task
from hydraopt.jsonvalues import to_json
from hydraopt.progress import Progress
from zoo.bases import base_folder
from zoo.recipe import read_recipe

__all__ = ["main"]

Result = Mapping[str, Any]
SIZES = ("10%", "5%", "2%")
HEADS, RANK = 4, 8
"""Of the paper's method: 5.2 % of fp16 for the forty tasks, the nearest to 5 %."""


def made(
    set_name: str, adapters: Sequence[Adapter]
) -> tuple[dict[str, ReadBack], dict[str, dict[str, Any]]]:
    """Return the methods by label, and what the result says of each; written unless they are."""
    rows = [*(ours(adapters, size) for size in SIZES), heads(HEADS, RANK)]
    name = f"{set_name}-{package_hash('benchmarks/rivals')}-{inputs_of(adapters)}"
    read = packed(rows, tasks_of(adapters), ROOT / "build" / "probes" / name)
    fp16 = 2 * sum(x.numbers for x in adapters)
    notes = {
        row.label: {
            "method": row.method,
            "setting": row.setting,
            "bytes": read[row.label].bytes,
            "size_pct": round(100 * read[row.label].bytes / fp16, 4),
        }
        for row in rows
    }
    return read, notes


def _lines() -> Progress:
    """Return a callback that prints a line for each stage that begins."""
    last = ""

    def say(stage: str, done: int, total: int) -> None:
        nonlocal last
        if stage != last:
            print(f"{stage}, {done} of {total}", flush=True)
        last = stage

    return say


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of(__name__, __doc__)
    parser.add_argument("set")
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--data", nargs="+", required=True, help="files and folders of probes")
    parser.add_argument("--items", type=int, default=32, help="of each probe")
    parser.add_argument(
        "--probed",
        nargs="*",
        metavar="ADAPTER",
        default=["sentiment-*", "slot_filling-*", "text_correction-*"],
        help="* stands for any text",
    )
    parser.add_argument("--products", choices=("float32", "bfloat16"), default="bfloat16")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    args = _arguments(arguments)
    adapters = original_adapters(args.set)
    names = [adapter.name for adapter in adapters]
    methods, notes = made(args.set, adapters)
    compared = Compared(
        {adapter.name: adapter for adapter in adapters},
        {},
        {adapter.name: adapter.source.parent for adapter in adapters},
        methods,
    )
    origin = provenance(f"{args.set}: what merging does to people", seed=0)
    extra = {
        "collection": args.set,
        "command": origin["command"],
        "hardware": origin["hardware"],
        "made": notes,
        "code": package_hash("benchmarks/rivals"),
    }
    request = EvaluationRequest(
        str(base_folder(read_recipe(recipe_of(args.set)).base)),
        None,
        rows=args.items,
        products=args.products,
        only=[x for x in names if any(fnmatchcase(x, y) for y in args.probed)],
        probes=args.data,
    )
    same: dict[str, Any] = {"limits": {"rows": request.rows, "tokens": request.tokens}}
    same |= {"products": args.products, "made": notes, "code": package_hash("benchmarks/rivals")}
    out = QUALITY / f"{args.set}.probes.json"
    before = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    _refuse_others(out.name, before, compared, same)

    def keep(evaluation: Evaluation) -> None:
        nonlocal before
        result = to_json(evaluation)
        for task in result["tasks"]:
            told = named_task(task["adapter"], compared.folders[task["adapter"]], args.tasks)
            task |= {"task": told.name, "language": told.language}
        whole = _joined(before, result, names) | extra
        before = {**whole, "tasks": [_counted(task) for task in whole["tasks"]]}
        save_json(out, before, "tasks")
        print(f"{len(before['tasks'])} tasks, {result['tasks'][-1]['adapter']}", flush=True)

    evaluate(compared, request, _lines(), keep)


def _counted(value: Any) -> Any:
    """Return a result without the intervals of shares, which follow from its counts."""
    if isinstance(value, Mapping):
        derived = {"low", "high"} if "pct" in value else set()
        return {key: _counted(x) for key, x in value.items() if key not in derived}
    return value


def _joined(before: Result, now: Result, names: Sequence[str]) -> dict[str, Any]:
    """Return a result with all that an earlier one tells of other tasks, and of other probes."""
    tasks = {task["adapter"]: dict(task) for task in before.get("tasks", ())}
    for task in now["tasks"]:
        mine = tasks.setdefault(task["adapter"], {})
        mine |= task | {"probes": {**mine.get("probes", {}), **task["probes"]}}
    old, new = before.get("probes", {}), now["probes"]
    probes = {x: {**old.get(x, {}), **new[x]} for x in ("items", "sha256", "base")}
    seconds = round(before.get("seconds", 0) + now["seconds"], 1)
    ordered = [tasks[name] for name in names if name in tasks]
    return {**before, **now, "probes": probes, "tasks": ordered, "seconds": seconds}


def _refuse_others(name: str, before: Result, compared: Compared, made: Result) -> None:
    """Raise SystemExit if a result that is continued is of something else."""
    adapters = {x: adapter.content_hash() for x, adapter in compared.adapters.items()}
    for what, value in {"adapters": adapters, **made}.items():
        if before and before.get(what) != value:
            raise SystemExit(f"{name} is of other {what}; remove it first")
