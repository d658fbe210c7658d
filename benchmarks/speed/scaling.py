"""Measure growth of merging and reading with adapters, rank and width, as ratios to other tools.

    python -m benchmarks.speed scaling [--limit 120] [--repeats 3] [--out FILE]
    python -m benchmarks.speed scaling --tasks 4 8 --ranks 16 --widths 512 --layers 0 --out FILE

A cell is one set of synthetic adapters (benchmarks/speed/synthetic.py); all tools are run on it one
after the other, each in a process of its own, and its ratios are to hydraopt's time in the same
cell. One of tasks, rank and width changes at a time, around 8 adapters of rank 16 and width 1024;
then the tasks once more with the modules of an 8B model's layers. A run over the limit, a tool that
fails, and one that cannot be installed are results. Every cell is saved at once, and a second call
goes on with what is missing: cells, or a tool's rows. It refuses a result of another revision.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.commands import parser_of
from benchmarks.common import ROOT, SPEED, begun, package_hash, provenance, save_json
from benchmarks.rivals.environments import python_of, versions_of
from benchmarks.rivals.registry import TOOLS as RIVALS
from benchmarks.speed.exponents import exponents, with_ratios
from benchmarks.speed.merge import MIB, Row, Rows, child, medians
from benchmarks.speed.synthetic import (
    Shapes,
    llama_layers,
    square_modules,
    write_adapters,
)

__all__ = [
    "RANKS",
    "TASKS",
    "TOOLS",
    "WIDTHS",
    "Cell",
    "cells_of",
    "compile_code",
    "measured",
    "summary",
]

TASKS, RANKS, WIDTHS = (4, 8, 16, 32, 64), (8, 16, 32, 64), (512, 1024, 2048, 4096)
_OURS = "hydraopt"
TOOLS = (_OURS, *RIVALS)
_CENTRE = {"tasks": 8, "rank": 16, "width": 1024}
_MODULES = 4
_8B = 4096
_SAME = ("source", "limit", "repeats", "tools", "versions")
"""Of the head of a result that a run goes on with."""


@dataclass(frozen=True, order=True)
class Cell:
    """shape: "square" or "8b". modules: how many are adapted. width: of the inputs."""

    shape: str
    width: int
    modules: int
    rank: int
    tasks: int

    @property
    def shapes(self) -> Shapes:
        """(m, n) by module path."""
        if self.shape == "8b":
            return llama_layers(self.modules // 7)
        return square_modules(self.width, self.modules)


def cells_of(
    tasks: Sequence[int], ranks: Sequence[int], widths: Sequence[int], layers: int
) -> list[Cell]:
    """Return cells in which one number changes at a time.

    The others are as near to the centre as these lists allow.
    """

    def near(values: Sequence[int], name: str) -> int:
        return min(values, key=lambda value: abs(value - _CENTRE[name]))

    t, r, w = near(tasks, "tasks"), near(ranks, "rank"), near(widths, "width")
    found = {Cell("square", w, _MODULES, r, x) for x in tasks}
    found |= {Cell("square", w, _MODULES, x, t) for x in ranks}
    found |= {Cell("square", x, _MODULES, r, t) for x in widths}
    if layers:
        found |= {Cell("8b", _8B, 7 * layers, r, x) for x in tasks}
    return sorted(found, reverse=True, key=lambda cell: (cell.shape == "square", cell))


def measured(
    tool: str, folders: Sequence[Path], work: Path, repeats: int, limit: int
) -> dict[str, Any]:
    """Return what one tool took, or why it was not measured.

    These are medians of wall and CPU seconds by run, memory, and bytes if the tool left files.
    """
    rival = RIVALS.get(tool)
    reads = rival.tools[tool] if rival else True
    try:
        python = python_of(rival.name) if rival and rival.package else None
    except RuntimeError as error:
        return {"failed": str(error)}
    row: dict[str, Any] = {}
    for mode in ("merge", "read") if reads else ("merge",):
        lines = child("tool", tool, mode, repeats, limit, work, *folders, python=python)
        row |= summary(lines, limit)
        if "failed" in row or "over" in row:
            break
    return row


def summary(lines: Rows, limit: int) -> dict[str, Any]:
    """Return one child's lines as part of a row.

    over: the limit in seconds, where a run did not end.
    """
    row: dict[str, Any] = {}
    for name, seconds in medians(lines).items():
        key = name.replace(" ", "_")
        row |= {f"{key}_wall": seconds["wall"], f"{key}_cpu": seconds["cpu"]}
    about = next((line for line in lines if line.get("run") == "about"), None)
    if about:
        row["peak_mib"] = round(about["peak"] / MIB, 1)
        row["peak_less_imported_mib"] = round((about["peak"] - about["imported"]) / MIB, 1)
        row |= {"bytes": about["bytes"]} if about["bytes"] else {}
    end = lines[-1] if lines else {"failed": "nothing was printed"}
    if "failed" not in end:
        return row
    started = any(line.get("run") == "ready" for line in lines)
    if end.get("code") != -signal.SIGALRM:
        row["failed"] = end["failed"]
    elif not started:
        row["failed"] = "it was not ready to start in time"
    elif "merge_wall" not in row:
        row["over"] = limit
    return row


def rows_of(
    cell: Cell, folders: Sequence[Path], tools: Sequence[str], args: argparse.Namespace
) -> Rows:
    """Return a row for each tool.

    load: of the machine when the cell began, which should be idle.
    """
    load = round(os.getloadavg()[0], 2)
    rows: Rows = []
    for tool in tools:
        with tempfile.TemporaryDirectory() as work:
            found = measured(tool, folders, Path(work), args.repeats, args.limit)
        rows.append({**asdict(cell), "tool": tool, "load_1min": load, **found})
        said = found.get("failed") or (f"over {found['over']} s" if "over" in found else "")
        print(f"{cell}: {tool}: {said or found['merge_wall']}", flush=True)
    return rows


def compile_code(place: Path) -> None:
    """Merge and read for nothing, so that hydraopt's compiled code is in its cache.

    The merges and reads are of one process and of several.
    """
    for width, rank in ((64, 4), (1024, 64)):
        with tempfile.TemporaryDirectory() as work:
            folders = write_adapters(place, square_modules(width, 4), tasks=8, rank=rank, seed=1)
            measured(_OURS, folders, Path(work), repeats=1, limit=600)
        shutil.rmtree(place)


def _head(args: argparse.Namespace) -> Row:
    head = provenance("seconds and memory against adapters, rank and width", seed=1)
    head["versions"] |= versions_of(x.name for x in RIVALS.values() if x.package)
    asked = {"limit": args.limit, "repeats": args.repeats, "tools": args.tools}
    return {**head, "source": package_hash(), **asked}


def run(args: argparse.Namespace) -> None:
    """Measure the cells that the result lacks."""
    head = _head(args)
    rows: Rows = begun(args.out, head, _SAME)
    fields = Cell.__dataclass_fields__
    have = {(Cell(**{name: row[name] for name in fields}), row["tool"]) for row in rows}
    wanted = cells_of(args.tasks, args.ranks, args.widths, args.layers)
    tools = {cell: [x for x in args.tools if (cell, x) not in have] for cell in wanted}
    missing = [cell for cell in wanted if tools[cell]]

    def kind(cell: Cell) -> tuple[str, int, int, int]:
        return cell.shape, cell.width, cell.modules, cell.rank

    place = ROOT / "build" / "scaling"
    compile_code(place)
    for _, group in itertools.groupby(missing, key=kind):
        same = list(group)
        most = max(cell.tasks for cell in same)
        try:
            folders = write_adapters(place, same[0].shapes, most, same[0].rank, seed=1)
            os.sync()  # or the first to write waits for the adapters to reach the disk
            for cell in same:
                made = rows_of(cell, folders[: cell.tasks], tools[cell], args)
                rows = with_ratios([*rows, *made])
                save_json(args.out, {**head, "rows": rows, "exponents": exponents(rows)})
        finally:
            shutil.rmtree(place, ignore_errors=True)
    print(f"{len(rows)} rows: {args.out.name}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--tasks", type=int, nargs="+", default=TASKS)
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--layers", type=int, default=2, help="of an 8B model; 0 for none")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=[*TOOLS])
    parser.add_argument("--limit", type=int, default=120, help="seconds of one run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=SPEED / "scaling.json")
    run(parser.parse_args(arguments))
