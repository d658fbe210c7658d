"""Time reading one task by every reader: whole processes, and integers per second.

    python -m benchmarks.speed readers BUNDLE TASK --hydra build/native/hydra

Every process is started anew, so many times, one reader after another in turns; of each figure the
least is kept: seconds of the process (user and system), of the clock, and the most memory it held,
if the command ``time`` is there.
Beside them stand Python with numpy alone, and an adapter of fp16 numbers that is read. With
``--hydra`` the command of native/, and with node the npm package, which has to be built
(native/js/build). Integers a second are those of all streams over the seconds of a process that
verifies the bundle, less those of one that lists its tasks.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.commands import parser_of
from benchmarks.common import ROOT, SPEED, provenance, write_result
from hydraopt.bundle.reader import Bundle
from hydraopt.collection.opening import open_bundle

_OPEN = "from hydraopt import open_bundle; open_bundle({0!r})[{1!r}].factors()"
_NUMPY = "import numpy"
_FP16 = "from safetensors.numpy import load_file; load_file({0!r})"
_NODE = """
const {{ openBundle }} = await import({2!r});
const {{ readFile }} = await import("node:fs/promises");
const bundle = await openBundle(await readFile({0!r}));
{3}
"""
_EXTRACT, _LIST, _VERIFY = "await bundle.extract({0!r});", "bundle.tasks;", "await bundle.verify();"


def _commands(args: argparse.Namespace, folder: Path) -> dict[str, list[str]]:
    """Return by name the command of each reader, that writes into ``folder`` where it writes."""
    bundle, task = str(args.bundle), args.task
    python = [sys.executable, "-c"]
    commands = {
        "numpy alone": [*python, _NUMPY],
        "fp16 adapter": [*python, _FP16.format(str(folder / "fp16" / "adapter_model.safetensors"))],
        "hydraopt export": [
            *(sys.executable, "-m", "hydraopt", "export", bundle, task),
            *("-o", str(folder / "out")),
        ],
        "open_bundle": [*python, _OPEN.format(bundle, task)],
    }
    if args.hydra:
        own = str(args.hydra)
        commands["hydra list"] = [own, "list", bundle]
        commands["hydra verify"] = [own, "verify", bundle]
        commands["hydra extract"] = [own, "extract", bundle, task, "-o", str(folder / "out")]
    node, module = shutil.which("node"), ROOT / "native" / "js" / "src" / "node.js"
    if node and module.with_name("hydra.wasm").is_file():
        works = {"list": _LIST, "verify": _VERIFY, "extract": _EXTRACT.format(task)}
        for name, work in works.items():
            text = _NODE.format(bundle, task, str(module), work)
            commands[f"node {name}"] = [node, "--input-type=module", "-e", text]
    return commands


def _run(command: Sequence[str], output: Path) -> dict[str, float]:
    """Return seconds and memory of one process, whose output folder is removed before."""
    shutil.rmtree(output, ignore_errors=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = str(ROOT / "src")
    # A process that is forked counts the memory of the one before; time's own is small.
    timer = [path, "-q", "-f", "%M"] if (path := shutil.which("time")) else []
    start = time.perf_counter()
    with subprocess.Popen(
        [*timer, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command[:4])}: {said}")
    figures = {"process_ms": 1000 * (used.ru_utime + used.ru_stime), "wall_ms": 1000 * wall}
    return {**figures, "memory_mb": int(said.split()[-1]) * 1024 / 1e6 if timer else 0.0}


def _integers(bundle: Bundle, names: Sequence[str]) -> int:
    """Count what a reader decodes for these tasks: integers of all bases, and the tasks' own."""
    widths, total = [], 0
    for left, right in bundle.read_bases():
        widths.append((left.q if left else 0, right.q if right else 0))
        total += sum(x.vectors.size for x in (left, right) if x)
    for name in names:
        for _, record in bundle[name].split(widths):
            for side in (record.left, record.right):
                total += sum(x.size for x in (side.coordinates, side.own) if x is not None)
    return total


def measured(args: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what was read, and the least figures of each reader."""
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held)
        bundle = open_bundle(args.bundle)
        bundle[args.task].save_pretrained(folder / "fp16", dtype="float16")
        commands = _commands(args, folder)
        least: dict[str, dict[str, float]] = {}
        for _ in range(args.times):
            for name, command in commands.items():
                run = _run(command, folder / "out")
                before = least.get(name, run)
                least[name] = {key: min(value, before[key]) for key, value in run.items()}
    whole = _integers(bundle, list(bundle))
    speeds = {
        who: whole / 1000 / (least[f"{who} verify"]["process_ms"] - listed["process_ms"])
        for who in ("hydra", "node")
        if (listed := least.get(f"{who} list")) is not None
    }
    about = {
        "bundle": args.bundle.name,
        "task": args.task,
        "integers": {"bundle": whole, "task": _integers(bundle, [args.task])},
        "times": args.times,
        "million_integers_a_second": {who: round(x, 1) for who, x in speeds.items()},
    }
    rows = [
        {"reader": name, **{key: round(x, 2) for key, x in run.items()}}
        for name, run in least.items()
    ]
    return about, rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("task")
    parser.add_argument("--hydra", type=Path, help="the command of native/")
    parser.add_argument("--times", type=int, default=10, help="runs of each process")
    args = parser.parse_args(arguments)
    head = provenance("one task by every reader")
    about, rows = measured(args)
    for row in rows:
        print(
            "{reader:16} {process_ms:8.1f} ms {wall_ms:8.1f} ms {memory_mb:7.1f} MB".format(**row)
        )
    print("million integers a second:", about["million_integers_a_second"])
    write_result(SPEED, "readers", {**head, **about}, rows)


if __name__ == "__main__":
    main()
