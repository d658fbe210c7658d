"""Time a merge against the least work and against other tools, and reading it back.

    python -m benchmarks.speed merge ADAPTERS... [--size 5%] [--repeats 3] [--skip rivals,synthetic]

Everything in one run, each part in a process of its own, medians over the repeats. Wall seconds
suffer from whatever else the machine does; CPU seconds (all threads) are given beside them. The
baseline reads the files, does one thin QR per module and side of the factors stacked over tasks,
and writes a file of the bundle's size. Compiled code is in its cache, except in "cold".
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.commands import parser_of
from benchmarks.common import SPEED, local_folder, provenance, write_result
from benchmarks.rivals.environments import python_of, run_module, versions_of
from benchmarks.rivals.registry import TOOLS
from benchmarks.speed.synthetic import write_synthetic
from hydraopt.adapters import read_adapters

MIB = 1 << 20
SYNTHETIC = ((2048, 4), (4096, 2))
RIVALS = ("lorashare", "peft svd")
LIMIT = 3600
"""Seconds of one run of a rival."""

Row = dict[str, Any]
Rows = list[Row]


def child(name: str, *arguments: object, python: Path | None = None, **env: str) -> Rows:
    """Run a module of this folder in a process of its own, and return its lines."""
    module = f"benchmarks.speed.child_{name}"
    # Threads that wait by spinning would burn the time of whatever else runs.
    env = {"OMP_WAIT_POLICY": "PASSIVE", **env}
    return list(run_module(module, *arguments, python=python, **env))


def medians(lines: Sequence[Row]) -> dict[str, Row]:
    """Return median wall and CPU seconds by run."""
    runs: dict[str, Rows] = defaultdict(list)
    for line in lines:
        if "wall" in line:
            runs[line["run"]].append(line)
    return {
        name: {
            "wall": round(median(x["wall"] for x in found), 4),
            "cpu": round(median(x["cpu"] for x in found), 4),
            "runs": len(found),
        }
        for name, found in runs.items()
    }


def ratio(a: Row, b: Row) -> dict[str, float]:
    """Return how many times longer ``a`` took than ``b``; nothing if ``b`` failed."""
    if "wall" not in b:
        return {}
    return {f"{clock}_ratio": round(a[clock] / b[clock], 2) for clock in ("wall", "cpu")}


def show(row: Row) -> Row:
    """Print a row, and return it."""
    print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    return row


def merge_rows(data: str, folders: Sequence[Path], size: str, repeats: int, work: Path) -> Rows:
    """Merge against the baseline; the bundle stays in ``work``."""
    lines = child("merge", repeats, size, work, *folders)
    if "failed" in lines[-1]:
        return [show({"data": data, "what": "merge", "failed": lines[-1]["failed"]})]
    times = medians(lines)
    about = lines[-1]
    rows = []
    for name, seconds in times.items():
        row = {"data": data, "what": name, **seconds}
        if name in ("merge", "first merge"):
            row |= {"passes": about["passes"], "bundle_bytes": about["bundle"]}
            for dtype in ("float64", "float32"):
                found = ratio(seconds, times[f"baseline {dtype}"])
                row |= {f"{key}_{dtype}": value for key, value in found.items()}
        rows.append(show(row))
    return rows


def rival_rows(data: str, folders: Sequence[Path], repeats: int, merge: Row, work: Path) -> Rows:
    """Time lorashare and PEFT on the same adapters, and how many times longer than ``merge``."""
    rows = []
    for name in RIVALS:
        rival = TOOLS[name]
        try:
            python = python_of(rival.name) if rival.package else None
            with tempfile.TemporaryDirectory(dir=work) as place:
                given = name, "merge", repeats, LIMIT, place, *folders
                lines = child("tool", *given, python=python)
        except RuntimeError as error:
            lines = [{"failed": str(error)}]
        row: Row = {"data": data, "what": name}
        if not lines or "failed" in lines[-1]:
            row["failed"] = lines[-1]["failed"] if lines else "nothing was printed"
        else:
            row |= medians(lines)["merge"]
            row |= ratio(row, merge)
        rows.append(show(row))
    return rows


def cold_row(folders: Sequence[Path], size: str, work: Path) -> Row:
    """Return the row of the first merge after installation: everything is compiled."""
    lines = child("merge", 0, size, work, *folders, NUMBA_CACHE_DIR=str(work / "numba"))
    return show(
        {"data": "adapters", "what": "cold: compiles everything", **medians(lines).popitem()[1]}
    )


def memory_row(folders: Sequence[Path], size: str, work: Path) -> Row:
    """Return the row of the peak memory of one merge."""
    about = child("merge", 0, size, work, *folders)[-1]
    row = {"data": "adapters", "what": "memory"}
    row |= {f"{key}_mib": round(about[key] / MIB, 1) for key in ("peak", "imported", "inputs")}
    row["peak_less_inputs_mib"] = round((about["peak"] - about["inputs"]) / MIB, 1)
    row["peak_less_imported_mib"] = round((about["peak"] - about["imported"]) / MIB, 1)
    return show(row)


def read_rows(bundle: Path, repeats: int) -> Rows:
    """Return the rows of reading tasks back."""
    lines = child("read", repeats, bundle)
    rows = []
    for name, seconds in medians(lines).items():
        mine = [line for line in lines if line.get("run") == name]
        row = {"data": "adapters", "what": f"read back: {name}", **seconds}
        for clock in ("wall", "cpu"):
            speeds = [line["numbers"] / line[clock] / 1e6 for line in mine]
            row[f"{clock}_mnps"] = round(median(speeds), 2)
            row[f"{clock}_mnps_best"] = round(max(speeds), 2)
        decoded = [line["decoded"] / line["cpu"] / 1e6 for line in mine]
        row["cpu_mnps_coded_numbers"] = round(median(decoded), 2)
        rows.append(show(row))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("adapters", nargs="+")
    parser.add_argument("--size", default="5%")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--skip", default="")
    parser.add_argument("--name", default="speed")
    args = parser.parse_args(arguments)
    skip = args.skip.split(",")
    head = provenance("seconds, numbers a second and memory of merge and of reading back", seed=1)
    head["versions"] |= versions_of(["lorashare"])
    folders = [local_folder(adapter) for adapter in read_adapters(args.adapters)]
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        rows = merge_rows("adapters", folders, args.size, args.repeats, work)
        rows += read_rows(work / "merged.hydra.safetensors", args.repeats)
        rows += [memory_row(folders, args.size, work), cold_row(folders, args.size, work)]
        if "rivals" not in skip:
            merged = next(row for row in rows if row["what"] == "merge")
            rows += rival_rows("adapters", folders, args.repeats, merged, work)
        for width, modules in SYNTHETIC if "synthetic" not in skip else ():
            made = write_synthetic(work, width, modules, tasks=4, rank=16, seed=width)
            data = f"synthetic, width {width}, {modules} modules"
            ours = merge_rows(data, made, args.size, args.repeats, work)
            rows += ours
            merged = next(row for row in ours if row["what"] == "merge")  # even if it failed
            rows += rival_rows(data, made, 1, merged, work)
    print(write_result(SPEED, args.name, head, rows))
