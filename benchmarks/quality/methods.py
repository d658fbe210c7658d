"""Every rival on a set: bytes on disk, relative error, seconds and memory, and then task scores.

    python benchmarks/quality/methods.py SET [--plan rivals|map] [--peers]
    python benchmarks/quality/methods.py SET --score --tasks TASKS [--rows 128]

Without ``--score`` no model is needed: every row of the plan (benchmarks/quality/compressors/rows)
writes all adapters of the set into a folder below build/, in a process of its own, and reads them
back; ``--peers`` adds lorashare and vlora-dev, each in its own environment, failures recorded.
``--score`` then has every task answered with what was read back, as evidence.py does for bundles.
Both go on where they stopped, and rows that changed are made and scored again. The result is
benchmarks/quality/results/SET.PLAN.json. ``--adapters N`` takes the first N adapters, ``--only
TEXT`` the rows whose label holds the text; both are for trying things out, with ``--out``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.common import provenance, save_json  # noqa: E402
from benchmarks.quality.compressors import rows as plans  # noqa: E402
from benchmarks.quality.compressors.base import Compressor  # noqa: E402
from benchmarks.quality.evidence import original_adapters, request_for  # noqa: E402
from benchmarks.quality.harness.building import (  # noqa: E402
    Note,
    ReadBack,
    in_a_process,
    inputs_of,
    made,
    measured,
)
from benchmarks.quality.harness.peers import kept_peers, peer_rows  # noqa: E402
from benchmarks.quality.harness.scoring import Result, scored, stale, with_aliases  # noqa: E402
from benchmarks.quality.sets import RESULTS, SETS  # noqa: E402
from hydraopt.adapters import Adapter  # noqa: E402

__all__ = ["Run", "main", "rows_of"]

_LARGEST = 105.0
"""Percent of the fp16 numbers; the adapters' own files have headers."""


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
        adapters = original_adapters(args.set)[: args.adapters]
        rows = [row for row in rows_of(args.plan, adapters) if args.only in row.label]
        inputs = inputs_of(adapters)
        place = ROOT / "build" / "methods" / args.set / f"{args.plan}-{inputs}"
        out = args.out or RESULTS / f"{args.set}.{args.plan}.json"
        return cls(args, adapters, rows, inputs, place, out)

    @property
    def arguments(self) -> list[str]:
        """Those by which another process sees the same rows."""
        first = ["--adapters", str(self.args.adapters)] if self.args.adapters else []
        return [self.args.set, "--plan", self.args.plan, *first]

    def before(self) -> Mapping[str, Any]:
        """What an earlier call left; empty if there was none."""
        found: Mapping[str, Any] = json.loads(self.out.read_text()) if self.out.is_file() else {}
        return found


def rows_of(plan: str, adapters: Sequence[Adapter]) -> list[Compressor]:
    """The rows of a plan for these adapters."""
    rank = max(module.r for adapter in adapters for module in adapter.modules.values())
    return (plans.head_map if plan == "map" else plans.rivals)(len(adapters), rank)


def one(run: Run) -> None:
    """Build one row in this process and print its note."""
    label, folder = run.args.one
    row = next(row for row in run.rows if row.label == label)
    print(json.dumps(measured(row, run.adapters, Path(folder))))


def build(run: Run) -> tuple[list[Compressor], Result]:
    """All rows, peers included, and the result with the scores that still hold."""
    started = time.monotonic()
    before = run.before()
    rows = list(run.rows)
    builder = in_a_process(Path(__file__).resolve(), run.arguments)
    notes: dict[str, Note] = dict(made(rows, run.place, builder, run.inputs))
    ask = peer_rows(run.adapters, run.place) if run.args.peers else kept_peers(before, run.place)
    for row, note in ask:
        rows.append(row)
        notes[row.label] = note
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
    if result["tasks"] and (result["limits"]["rows"], result["products"]) != (
        args.rows,
        args.products,
    ):
        raise SystemExit(f"{run.out.name} was scored with other rows or products; remove it first")
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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--plan", choices=("rivals", "map"), default="rivals")
    parser.add_argument("--peers", action="store_true", help="lorashare and vlora-dev as well")
    parser.add_argument("--score", action="store_true")
    parser.add_argument("--tasks", type=Path)
    parser.add_argument("--rows", type=int, default=128, help="test rows of a task")
    parser.add_argument("--products", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--adapters", type=int, help="the first N adapters alone")
    parser.add_argument("--only", default="", help="rows whose label holds this text")
    parser.add_argument("--out", type=Path, help="default benchmarks/quality/results/SET.PLAN.json")
    parser.add_argument("--one", nargs=2, metavar=("LABEL", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.score and not args.tasks:
        parser.error("--score needs --tasks")
    if (args.adapters or args.only) and not args.out and not args.one:
        parser.error("--adapters and --only need --out: they are no result of the set")
    return args


def main() -> None:
    run = Run.of(_arguments())
    if run.args.one:
        one(run)
        return
    rows, result = build(run)
    if run.args.score:
        score(run, rows, result)


if __name__ == "__main__":
    main()
