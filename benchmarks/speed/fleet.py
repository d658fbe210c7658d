"""Time merges of many adapters, and extrapolate to a large fleet.

    python -m benchmarks.speed fleet [--tasks 100 300 1000] [--workers 1 2] [--memory 100MB]
    python -m benchmarks.speed fleet --small 10000
    python -m benchmarks.speed fleet --forty
    python -m benchmarks.speed fleet --paper

Adapters are those of benchmarks/speed/families.py: half near-copies in families of ten. CPU seconds
count, since wall seconds suffer from whatever else the machine does. ``--small`` merges that many
adapters of small modules into a collection, and adds a row; ``--forty`` adds the rows of the forty
of ``zoo/adapters/gemma3-5x8``, with one worker and two. The paper has 10,000 adapters of rank
16 on all linear layers of an 8B model; it multiplies what was measured by their numbers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.commands import parser_of
from benchmarks.common import ROOT, SPEED, provenance, save_json
from benchmarks.speed.families import write_fleet
from benchmarks.speed.synthetic import llama_layers, square_modules
from hydraopt.merging.budget import parse_size

__all__ = ["main", "on_paper"]

Row = dict[str, Any]

_SMALL: Final = {"width": 128, "modules": 4}
_PAPER: Final = {"adapters": 10_000, "rank": 16, "layers": 32}
_DOLLARS: Final = 0.023
"""A gigabyte a month in an object store of the large clouds, list price; an assumption."""


def measured(adapters: Path, tasks: int, args: argparse.Namespace, workers: int) -> Row:
    """Run one merge into a collection; raises CalledProcessError if it fails."""
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, "-m", "benchmarks.speed.child_fleet", str(workers)]
        command += [str(parse_size(args.memory, 0)), args.size, f"{work}/out/", str(adapters)]
        done = subprocess.run([*command, str(tasks)], stdout=subprocess.PIPE, text=True, check=True)
    row: Row = json.loads(done.stdout)
    return {"tasks": tasks, "workers": workers, **row}


def on_paper(rows: Sequence[Row], modules: int, fraction: float) -> Row:
    """Return what the rows of one worker say of the fleet of _PAPER.

    modules: of a measured adapter. fraction: bytes of the bundle over the fp16 bytes.
    """
    alone = sorted((row for row in rows if row["workers"] == 1), key=lambda row: row["tasks"])
    few, many = alone[0], alone[-1]
    more = many["numbers"] - few["numbers"]
    seconds = (sum(many["cpu"]) - sum(few["cpu"])) / more
    reads = (many["read"] - few["read"]) / (2 * more)
    known = (many["peaks"][0] - few["peaks"][0]) / (modules * (many["tasks"] - few["tasks"]))
    shapes = llama_layers(_PAPER["layers"]).values()
    each = sum(_PAPER["rank"] * (m + n) for m, n in shapes)
    numbers = _PAPER["adapters"] * each
    return {
        **_PAPER,
        "numbers_of_an_adapter": each,
        "fp16_gb": round(2 * numbers / 1e9, 1),
        "bundle_gb": round(fraction * 2 * numbers / 1e9, 1),
        "cpu_seconds_of_a_million_numbers": round(1e6 * seconds, 3),
        "core_hours": round(numbers * seconds / 3600, 1),
        "bytes_known": round(known),
        "known_gb": round(_PAPER["adapters"] * len(shapes) * known / 1e9, 1),
        "reads": round(reads, 1),
        "read_gb": round(reads * 2 * numbers / 1e9),
        "script_gb": round(numbers / 1e9),
        "dollars_a_month_before": round(_DOLLARS * 2 * numbers / 1e9, 2),
        "dollars_a_month_after": round(_DOLLARS * fraction * 2 * numbers / 1e9, 2),
        "dollars_of_a_gb_a_month": _DOLLARS,
    }


def run(args: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows of fleets of several sizes."""
    shapes = square_modules(args.width, args.modules)
    with tempfile.TemporaryDirectory() as place:
        write_fleet(Path(place), shapes, max(args.tasks), args.rank, seed=1)
        measured(Path(place), 2, args, 1)  # compiled code is in its cache
        for workers in args.workers:
            for tasks in sorted(args.tasks):
                numbers = tasks * args.modules * args.rank * 2 * args.width
                yield {"numbers": numbers, **measured(Path(place), tasks, args, workers)}


def run_small(args: argparse.Namespace) -> Row:
    """Return the row of very many adapters of small modules."""
    shapes = square_modules(_SMALL["width"], _SMALL["modules"])
    with tempfile.TemporaryDirectory() as place:
        write_fleet(Path(place), shapes, args.small, args.rank, seed=1)
        row = measured(Path(place), args.small, args, max(args.workers))
    numbers = args.small * _SMALL["modules"] * args.rank * 2 * _SMALL["width"]
    return {**_SMALL, "numbers": numbers, **row}


def run_forty(args: argparse.Namespace) -> list[Row]:
    """Return the rows of forty real adapters; each row is of the run with the least seconds."""
    place, rows = ROOT / "zoo" / "adapters" / "gemma3-5x8", list[Row]()
    tasks = sum(x.is_dir() for x in place.iterdir())
    measured(place, tasks, args, 1)  # compiled code is in its cache
    for workers in args.workers:
        tried = [measured(place, tasks, args, workers) for _ in range(args.repeats)]
        rows.append(min(tried, key=lambda row: float(row["wall"])))
    return rows


def _save(
    args: argparse.Namespace, rows: Sequence[Row], kept: Row, commands: Mapping[str, str]
) -> None:
    """Write the result.

    commands: of its parts that were measured before.
    """
    head = provenance("a merge against the adapters of a fleet, and a large one on paper", seed=1)
    made = {"small": args.small, "forty": args.forty}
    now = [part for part, asked in made.items() if asked] or ([] if args.paper else ["rows"])
    commands = {**commands, **dict.fromkeys(now, head["command"])}
    head |= {"command": "; ".join(dict.fromkeys(commands.values())), "commands": commands}
    about = {"width": args.width, "modules": args.modules, "rank": args.rank, "size": args.size}
    paper = None
    if len({row["tasks"] for row in rows if row["workers"] == 1}) > 1:
        last = rows[-1]
        paper = on_paper(rows, args.modules, last["bytes"] / last["fp16_bytes"])
    about |= {"memory": args.memory, "rows": rows, **kept, "paper": paper}
    save_json(args.out, {**head, **about})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--tasks", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--modules", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--size", default="10%")
    parser.add_argument("--out", type=Path, default=SPEED / "fleet.json")
    parser.add_argument("--memory", default="100MB", help="that each worker may keep")
    parser.add_argument("--small", type=int, help="adapters of small modules; only these")
    parser.add_argument("--forty", action="store_true", help="only forty real adapters")
    parser.add_argument("--repeats", type=int, default=3, help="of the forty")
    parser.add_argument("--paper", action="store_true", help="only that, from the rows there are")
    args = parser.parse_args(arguments)
    before = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {}
    rows, kept = before.get("rows", []), {x: before.get(x) for x in ("small", "forty")}
    commands = before.get("commands", {})
    if args.small:
        kept["small"] = run_small(args)
    if args.forty:
        kept["forty"] = run_forty(args)
    if args.paper or args.small or args.forty:
        _save(args, rows, kept, commands)
        return
    rows = []
    for row in run(args):
        print(json.dumps(row), flush=True)
        rows.append(row)
        _save(args, rows, kept, commands)
