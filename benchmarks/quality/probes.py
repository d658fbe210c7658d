"""Measure changes of choices on probes of stereotypes.

    python -m benchmarks.quality probes SET --tasks TASKS --data PROBES... [--items 32]

The base, the original adapters, bundles of 10, 5 and 2 %, and HydraOpt as published at about the
bytes of the 5 % bundle are asked the same. PROBES are files and folders in the format of
docs/reference/evaluation.md; probe_sets makes them. Saved after every task, beside what the file
tells of others; a second call goes on where the first stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, ROOT, provenance, save_json
from benchmarks.quality.evidence import chosen, merged, original_adapters, request_for
from benchmarks.quality.harness.building import code_of, emptied, inputs_of
from benchmarks.quality.sets import METHOD, SETS, Method
from benchmarks.rivals.base import Tasks, folder_bytes, pack, tasks_of
from benchmarks.rivals.heads import heads
from hydraopt.adapters import Adapter
from hydraopt.collection.opening import open_bundle
from hydraopt.evaluate.compare import Compared, bundles_of, evaluate
from hydraopt.evaluate.results import Evaluation
from hydraopt.evaluate.taskfile import named_task
from hydraopt.jsonvalues import to_json
from hydraopt.progress import Progress

__all__ = ["main"]

Result = Mapping[str, Any]
SIZES = ("10%", "5%", "2%")
HEADS, RANK = 4, 8
"""Of the paper's method: 5.2 % of fp16 for forty tasks, the nearest to 5 %."""


def published(set_name: str, adapters: Sequence[Adapter]) -> tuple[str, Tasks, dict[str, Any]]:
    """(label, factors, note) of HydraOpt as published; written now unless it lies there."""
    row = heads(HEADS, RANK)
    folder = (
        ROOT / "build" / "evidence" / set_name / "people" / f"{code_of()}-{inputs_of(adapters)}"
    )
    if folder.is_dir():
        factors = {adapter.name: row.read(folder, adapter.name) for adapter in adapters}
    else:
        scratch = folder.with_suffix(".new")
        emptied(scratch)
        factors = dict(pack(row, tasks_of(adapters), scratch).factors)
        scratch.rename(folder)
    size = folder_bytes(folder)
    numbers = sum(adapter.numbers for adapter in adapters)
    note = {"method": row.method, "setting": row.setting, "bytes": size}
    return row.label, factors, {**note, "size_pct": round(100 * size / (2 * numbers), 4)}


def _lines() -> Progress:
    """A line for each stage that begins."""
    last = ""

    def say(stage: str, done: int, total: int) -> None:
        nonlocal last
        if stage != last:
            print(f"{stage}, {done} of {total}", flush=True)
        last = stage

    return say


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of(__name__, __doc__)
    parser.add_argument("set", choices=SETS)
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
    parser.add_argument(
        "--keep-bundles",
        action="store_true",
        help="take bundles under build/ that other code made of the same",
    )
    parser.add_argument("--products", choices=("float32", "bfloat16"), default="bfloat16")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = _arguments(arguments)
    adapters = original_adapters(args.set)
    names = [adapter.name for adapter in adapters]
    made = [
        merged(args.set, adapters, Method(METHOD, size), args.tasks, args.keep_bundles)
        for size in SIZES
    ]
    label, factors, note = published(args.set, adapters)
    compared = Compared(
        {adapter.name: adapter for adapter in adapters},
        {path.name: open_bundle(path) for path, _ in made},
        {adapter.name: adapter.source.parent for adapter in adapters},
        {label: factors},
    )
    origin = provenance(f"{args.set}: what merging does to people", seed=0)
    extra = {
        "collection": args.set,
        "command": origin["command"],
        "hardware": origin["hardware"],
        "made": {**{path.name: said for path, said in made}, label: note},
    }
    request = replace(
        request_for(args.set, args.tasks, args.items, args.products),
        tasks=None,
        tokens=None,
        probes=args.data,
        only=chosen(names, args.probed),
    )
    limits = {"rows": request.rows, "tokens": request.tokens}
    out = QUALITY / f"{args.set}.probes.json"
    before = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    _refuse_others(out.name, before, compared, limits, args.products)

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

    evaluate(compared, request, _lines(), (), keep)


def _counted(value: Any) -> Any:
    """A result without the intervals of shares, which follow from its counts."""
    if isinstance(value, Mapping):
        derived = {"low", "high"} if "pct" in value else set()
        return {key: _counted(x) for key, x in value.items() if key not in derived}
    return value


def _joined(before: Result, now: Result, names: Sequence[str]) -> dict[str, Any]:
    """A result with all that an earlier one tells of other tasks, and of other probes."""
    tasks = {task["adapter"]: dict(task) for task in before.get("tasks", ())}
    for task in now["tasks"]:
        mine = tasks.setdefault(task["adapter"], {})
        mine |= task | {"probes": {**mine.get("probes", {}), **task["probes"]}}
    old, new = before.get("probes", {}), now["probes"]
    probes = {x: {**old.get(x, {}), **new[x]} for x in ("items", "sha256", "base")}
    seconds = round(before.get("seconds", 0) + now["seconds"], 1)
    ordered = [tasks[name] for name in names if name in tasks]
    return {**before, **now, "probes": probes, "tasks": ordered, "seconds": seconds}


def _refuse_others(
    name: str, before: Result, compared: Compared, limits: Result, products: str
) -> None:
    """SystemExit where a result that is to go on is of something else than today's."""
    if not before:
        return
    now = {
        "adapters": {x: adapter.content_hash() for x, adapter in compared.adapters.items()},
        "bundles": to_json(bundles_of(compared)),
        "limits": limits,
        "products": products,
    }
    for what, value in now.items():
        if before[what] != value:
            raise SystemExit(f"{name} is of other {what} than today's; remove it first")
