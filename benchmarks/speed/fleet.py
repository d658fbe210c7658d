"""How a merge grows with the adapters of a fleet, and what that says of a large one, on paper.

    python -m benchmarks.speed fleet [--tasks 20 60 200] [--workers 1 2] [--paper] [--out FILE]

Adapters are those of benchmarks/speed/families.py: half near-copies in families of ten. CPU seconds
count, since wall seconds suffer from whatever else the machine does. The paper has 10,000 adapters
of rank 16 on all linear layers of an 8B model; it multiplies what was measured by their numbers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.commands import parser_of
from benchmarks.common import SPEED, provenance, save_json
from benchmarks.speed.families import write_fleet
from benchmarks.speed.synthetic import llama_layers, square_modules

__all__ = ["main", "on_paper"]

Row = dict[str, Any]

_READS: Final = 4
"""Of a module for which a worker has no room: its norms, two estimates, and the pass."""
_PAPER: Final = {"adapters": 10_000, "rank": 16, "layers": 32}
_DOLLARS: Final = 0.023
"""A gigabyte a month in an object store of the large clouds, list price; an assumption."""


def measured(folders: Sequence[Path], size: str, workers: int) -> Row:
    """One merge. Raises CalledProcessError if it fails."""
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, "-m", "benchmarks.speed.child_fleet", str(workers), size]
        command += [f"{work}/out.hydra.safetensors", *map(str, folders)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row: Row = json.loads(done.stdout)
    return row


def on_paper(rows: Sequence[Row], rank: int, sides: int, fraction: float) -> Row:
    """What the rows of one worker say of the fleet of _PAPER.

    sides: m + n of a measured module. fraction: bytes of the bundle over the fp16 bytes.
    """
    alone = sorted((row for row in rows if row["workers"] == 1), key=lambda row: row["tasks"])
    few, many = alone[0], alone[-1]
    more = many["numbers"] - few["numbers"]
    seconds = (sum(many["cpu"]) - sum(few["cpu"])) / more
    per_module = (many["tasks"] - few["tasks"]) * rank * sides
    memory = (many["peaks"][0] - few["peaks"][0]) / per_module
    shapes = llama_layers(_PAPER["layers"]).values()
    each = sum(_PAPER["rank"] * (m + n) for m, n in shapes)
    largest = max(_PAPER["rank"] * (m + n) for m, n in shapes)
    numbers = _PAPER["adapters"] * each
    return {
        **_PAPER,
        "numbers_of_an_adapter": each,
        "fp16_gb": round(2 * numbers / 1e9, 1),
        "bundle_gb": round(fraction * 2 * numbers / 1e9, 1),
        "cpu_seconds_of_a_million_numbers": round(1e6 * seconds, 3),
        "core_hours": round(numbers * seconds / 3600, 1),
        "bytes_of_a_number_in_memory": round(memory, 1),
        "worker_gb": round(_PAPER["adapters"] * largest * memory / 1e9, 1),
        "adapters_of_a_core_at_16_gb": int(16e9 / (largest * memory)),
        "read_gb": round(_READS * 2 * numbers / 1e9),
        "script_gb": round(numbers / 1e9),
        "dollars_a_month_before": round(_DOLLARS * 2 * numbers / 1e9, 2),
        "dollars_a_month_after": round(_DOLLARS * fraction * 2 * numbers / 1e9, 2),
        "dollars_of_a_gb_a_month": _DOLLARS,
    }


def run(args: argparse.Namespace) -> None:
    shapes = square_modules(args.width, args.modules)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        folders = write_fleet(Path(place), shapes, max(args.tasks), args.rank, seed=1)
        measured(folders[:2], "50%", 1)  # compiled code is in its cache
        for workers in args.workers:
            for tasks in sorted(args.tasks):
                numbers = tasks * args.modules * args.rank * 2 * args.width
                row = measured(folders[:tasks], args.size, workers)
                rows.append({"tasks": tasks, "workers": workers, "numbers": numbers, **row})
                print(json.dumps(rows[-1]), flush=True)
    _save(args, rows)


def _save(args: argparse.Namespace, rows: Sequence[Row]) -> None:
    head = provenance("a merge against the adapters of a fleet, and a large one on paper", seed=1)
    about = {"width": args.width, "modules": args.modules, "rank": args.rank, "size": args.size}
    last = rows[-1]
    paper = on_paper(rows, args.rank, 2 * args.width, last["bytes"] / last["fp16_bytes"])
    save_json(args.out, {**head, **about, "rows": rows, "paper": paper})
    print(json.dumps(paper, indent=1))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--tasks", type=int, nargs="+", default=[20, 60, 200])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--modules", type=int, default=4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--size", default="10%")
    parser.add_argument("--out", type=Path, default=SPEED / "fleet.json")
    parser.add_argument("--paper", action="store_true", help="only that, from the rows there are")
    args = parser.parse_args(arguments)
    if args.paper:
        _save(args, json.loads(args.out.read_text(encoding="utf-8"))["rows"])
    else:
        run(args)
