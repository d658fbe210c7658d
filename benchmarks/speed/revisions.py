"""Is this tree's merge faster than another revision's, and as good? CPU seconds on one core.

    python -m benchmarks.speed revisions --against TREE [--repeats 2] [--rounds 2] [--only forty]
    python -m benchmarks.speed revisions --against TREE --only table --name revisions-table

TREE is the other revision's work tree (git worktree add). Both trees merge the same adapters in
turn, in processes of their own: the forty of ``zoo/adapters/gemma3-5x8``, the examples, and some
cells of the scaling table; ``--only table`` has all of its cells, with one layer of an 8B model. A
row has the least CPU seconds of each, their ratio, bytes and mean errors, and how many times the
least work a merge takes (read, QR and write; benchmarks/speed/baseline.py). Every row is saved at
once, and a second call goes on with what is missing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.commands import parser_of
from benchmarks.common import ROOT, SPEED, begun, package_hash, provenance, write_result
from benchmarks.rivals.environments import run_lines
from benchmarks.speed.scaling import RANKS, TASKS, WIDTHS, Cell, cells_of
from benchmarks.speed.synthetic import write_adapters

__all__ = ["CELLS", "TABLE"]

Row = dict[str, Any]

SETS = {"forty": "zoo/adapters/gemma3-5x8", "examples": "examples/adapters"}
SIZES = ("10%", "5%", "2%")
CELLS = (
    Cell("square", 1024, 4, 16, 4),
    Cell("square", 1024, 4, 16, 8),
    Cell("square", 1024, 4, 64, 8),
    Cell("square", 4096, 4, 16, 8),
    Cell("square", 1024, 4, 16, 64),
    Cell("8b", 4096, 14, 16, 8),
)
TABLE = tuple(cells_of(TASKS, RANKS, WIDTHS, layers=1))
_SAME = ("against", "source", "repeats", "rounds", "versions")
"""Of the head of a result that a run goes on with."""
_PLACE = ("set", "tasks", "rank", "size")
"""What names a row."""


def seconds(tree: Path, size: str, folders: Sequence[Path], repeats: int, work: Path) -> Row:
    """The least CPU seconds of a merge by the code of ``tree``; bytes and mean error."""
    path = os.pathsep.join([str(tree / "src"), str(ROOT)])
    command = [sys.executable, "-m", "benchmarks.speed.child_revision"]
    given = map(str, (repeats, size, work, *folders))
    lines = list(run_lines([*command, *given], PYTHONPATH=path))
    row: Row = {"cpu": min(line["cpu"] for line in lines if "cpu" in line)}
    about = next((line for line in lines if line.get("run") == "about"), {})
    return row | {key: about[key] for key in ("bytes", "error") if key in about}


def compared(
    old: Path, size: str, folders: Sequence[Path], args: Any, work: Path, least: bool
) -> Row:
    """One row: both trees in turn, and the least work where it is asked for."""
    runs: dict[str, list[Row]] = {"old": [], "new": [], "least": []}
    for _ in range(args.rounds):
        for name, tree in (("old", old), ("new", ROOT)):
            runs[name].append(seconds(tree, size, folders, args.repeats, work))
        if least:
            runs["least"].append(seconds(ROOT, "least", folders, args.repeats, work))
    best = {name: min(x["cpu"] for x in rows) for name, rows in runs.items() if rows}
    row: Row = {f"{name}_cpu": round(cpu, 3) for name, cpu in best.items()}
    row["faster"] = round(best["old"] / best["new"], 2)
    if least:
        row |= {f"{x}_times_least": round(best[x] / best["least"], 2) for x in ("old", "new")}
    for name in ("old", "new"):
        row |= {f"{name}_{key}": runs[name][0][key] for key in ("bytes", "error")}
    row["error_ratio"] = round(row["new_error"] / row["old_error"], 6)
    return row


def measure(head: Row, args: Any, work: Path) -> None:
    """The rows that the result lacks, each saved as it comes."""
    rows = begun(SPEED / f"{args.name}.json", head, _SAME)
    old = args.against.resolve()

    def lacks(place: Row) -> bool:
        return all([row.get(x) for x in _PLACE] != [place.get(x) for x in _PLACE] for row in rows)

    def add(place: Row, folders: Sequence[Path], least: bool = False) -> None:
        rows.append(place | compared(old, place["size"], folders, args, work, least))
        print(rows[-1], flush=True)
        write_result(SPEED, args.name, head, rows)

    for name, folder in SETS.items():
        folders = sorted(x for x in (ROOT / folder).iterdir() if x.is_dir())
        for size in args.sizes if name in args.only else ():
            if lacks(place := {"set": name, "size": size}):
                add(place, folders, size == SIZES[0])
    for cell in (*CELLS * ("cells" in args.only), *TABLE * ("table" in args.only)):
        if lacks(place := place_of(cell)):
            with tempfile.TemporaryDirectory(dir=work) as made:
                add(place, write_adapters(Path(made), cell.shapes, cell.tasks, cell.rank, seed=1))


def place_of(cell: Cell) -> Row:
    """What names the row of a cell."""
    about = f"{cell.modules} of width {cell.width}, {cell.shape}"
    return {"set": about, "tasks": cell.tasks, "rank": cell.rank, "size": "5%"}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--against", type=Path, required=True, help="a work tree")
    parser.add_argument("--repeats", type=int, default=2, help="merges in a process")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each tree, in turn")
    parser.add_argument(
        "--only", nargs="+", choices=(*SETS, "cells", "table"), default=(*SETS, "cells")
    )
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--name", default="revisions")
    args = parser.parse_args(arguments)
    git = ["git", "-C", str(args.against), "rev-parse", "--short", "HEAD"]
    against = subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    head = {**provenance("CPU seconds of a merge on one core", seed=1), "against": against}
    head |= {"source": package_hash(), "repeats": args.repeats, "rounds": args.rounds}
    with tempfile.TemporaryDirectory() as place:
        measure(head, args, Path(place))
