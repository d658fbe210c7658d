"""Time libhydra on 1, 2 and 4 threads: one task, and all tasks of a bundle.

    python -m benchmarks.speed threads BUNDLE... [--threads 1 2 4] [--repeats 10] [--name threads]

threads.c maps each file and opens it, decodes the core, reads the first task (its chunks on the
threads) and reads all tasks (each thread the next one). The least wall and CPU milliseconds of all
repeats count. ``gain`` is the wall time on one thread divided by that on several. ``core_share`` is
the part of opening, core and first task that a cache of the decoded core could save.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.commands import parser_of
from benchmarks.common import ROOT, SPEED, provenance, write_result
from hydraopt.collection.opening import open_bundle

_NATIVE = ROOT / "native"
_FLAGS = ("-std=c99", "-D_POSIX_C_SOURCE=200809L", "-O2", "-ffp-contract=off")


def compiled(folder: Path) -> Path:
    """Compile the program with the library's core."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("a C compiler is needed")
    program = folder / "threads"
    sources = [Path(__file__).with_name("threads.c"), *sorted(_NATIVE.glob("src/core/*.c"))]
    command = [compiler, *_FLAGS, "-I", str(_NATIVE / "include"), *map(str, sources)]
    subprocess.run([*command, "-lm", "-pthread", "-o", str(program)], check=True)
    return program


def measured(program: Path, path: Path, threads: Sequence[int], repeats: int) -> list[Any]:
    """Return a row for each number of threads."""
    bundle = open_bundle(path)
    task, tasks = next(iter(bundle)), len(bundle)
    rows: list[dict[str, Any]] = []
    for count in threads:
        command = [str(program), str(path), task, str(count), str(repeats)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        steps = json.loads(done.stdout)
        first = rows[0]["steps"] if rows else steps
        cold = sum(steps[x]["cpu_ms"] for x in ("open", "core", "task"))
        gain = {x: round(first[x]["wall_ms"] / steps[x]["wall_ms"], 2) for x in steps}
        row = {"bundle": path.name, "tasks": tasks, "threads": count, "steps": steps, "gain": gain}
        rows.append({**row, "core_share": round(steps["core"]["cpu_ms"] / cold, 2)})
        print(json.dumps(rows[-1]))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the result."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--name", default="threads")
    args = parser.parse_args(arguments)
    head = provenance("libhydra on several threads")
    with tempfile.TemporaryDirectory(prefix="hydraopt-threads-") as scratch:
        program = compiled(Path(scratch))
        rows = [
            row
            for path in args.bundles
            for row in measured(program, path, args.threads, args.repeats)
        ]
    write_result(SPEED, args.name, head, rows)


if __name__ == "__main__":
    main()
