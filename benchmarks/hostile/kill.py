"""Kill commands that write at random moments: no output may be half written.

    python -m benchmarks.hostile kill --count 300 --seed 0 --json FILE

Jobs are merge, shrink, each format of export, and the writing of eval's result file. A round forks
a process that runs one job over an older output of the same name, and kills it: in half of the
rounds at a moment drawn from the whole job, in the other half from the replacing of its output,
which is over in a few milliseconds. Afterwards the output must be what it was, or exactly what an
undisturbed run writes, file by file; a folder with new weights under an old config is a failure.
What a killed run left beside its output must go with the next one. Exit code 1 if anything else is
found.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.commands import parser_of
from benchmarks.hostile.fuzz import environment, write_result
from benchmarks.hostile.samples import write_adapters, write_base

State = dict[str, str]
"""Hash by name of each file of an output; empty where there is none."""


@dataclass(frozen=True)
class Job:
    """run(target) writes the new output, old(target) an older one."""

    name: str
    run: Callable[[Path], Any]
    old: Callable[[Path], Any]


def state_of(target: Path) -> State:
    """Return what stands under the name of an output."""
    if not target.exists():
        return {}
    paths = sorted(target.iterdir()) if target.is_dir() else [target]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def jobs(folder: Path) -> list[Job]:
    """Return the jobs, on the samples of the fuzzer."""
    from hydraopt import merge, open_bundle, shrink
    from hydraopt.export import FORMATS, export_task
    from hydraopt.files.writing import write_atomically

    adapters = write_adapters(folder / "adapters")
    base = write_base(folder / "base")
    plain = [adapters[f"plain{i}"] for i in range(3)]
    kinds = {"kohya": [adapters["image"]], "diffusers": [adapters["diffusers"]]}
    bundles = folder / "bundles"
    bundles.mkdir()

    def bundle(of: list[Path], error: float) -> Path:
        path = bundles / f"{of[0].stem}-{error}.hydra.safetensors"
        if not path.exists():
            merge(of, path, error=error, workers=1)
        return path

    def merging(error: float) -> Callable[[Path], Any]:
        return lambda target: merge(plain, target, error=error, workers=1)

    def shrinking(error: float) -> Callable[[Path], Any]:
        return lambda target: shrink(bundle(plain, 0.02), target, error=error, workers=1)

    def exporting(name: str, error: float) -> Callable[[Path], Any]:
        source = bundle(kinds.get(name, plain), error)
        needs: dict[str, Any] = {"base": base} if FORMATS[name].needs_base else {}

        def run(target: Path) -> None:
            opened = open_bundle(source)
            export_task(opened[next(iter(opened))], target, format=name, overwrite=True, **needs)

        return run

    def result(text: bytes) -> Callable[[Path], Any]:
        return lambda target: write_atomically(target, [text] * 512)

    return [
        Job("merge", merging(0.05), merging(0.3)),
        Job("shrink", shrinking(0.1), shrinking(0.3)),
        *(Job(f"export {x}", exporting(x, 0.05), exporting(x, 0.3)) for x in FORMATS),
        Job("eval -o", result(b'{"new": 1}' * 999), result(b'{"old": 1}' * 999)),
    ]


@contextmanager
def _told(pipe: int) -> Iterator[None]:
    """Write a byte to the pipe before each replacement of an output."""
    from hydraopt.files import exchanging

    replace, exchange = os.replace, exchanging.exchange

    def told(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **more: Any) -> Any:
            os.write(pipe, b"w")
            return call(*arguments, **more)

        return run

    os.replace, exchanging.exchange = told(replace), told(exchange)
    try:
        yield
    finally:
        os.replace, exchanging.exchange = replace, exchange


def killed(job: Job, target: Path, seconds: float, replacing: bool) -> bool:
    """Run a job in a fork, kill it, and return whether it was still running.

    seconds: until it is killed, from the start of the job, or of the replacing of its output.
    """
    heard, said = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with _told(said):
                job.run(target)
        finally:
            os._exit(0)
    os.close(said)
    if replacing:
        os.read(heard, 1)  # Nothing, if the child ended without replacing anything.
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(heard)
    return os.WIFSIGNALED(status)


def one_job(job: Job, home: Path, count: int, rng: random.Random) -> dict[str, Any]:
    """Run one job in rounds until so many runs were killed, and return what they left."""
    home.mkdir()
    target = home / "output"
    job.run(target)
    new = state_of(target)
    started = time.monotonic()
    job.old(target)
    duration = time.monotonic() - started
    old = state_of(target)
    assert old != new, f"{job.name}: two outputs that cannot be told apart"
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    number = done = left = 0
    while done < count and number < 10 * count:
        number += 1
        job.old(target)
        replacing = number % 2 == 0
        moment = rng.uniform(0, 0.004) if replacing else rng.uniform(0, duration)
        was_killed = killed(job, target, moment, replacing)
        done += was_killed
        found = state_of(target)
        left += len([path for path in home.iterdir() if path != target])
        state = "as it was" if found == old else "the new output" if found == new else "DAMAGED"
        outcomes[state if was_killed else f"was faster: {state}"] += 1
        if state == "DAMAGED":
            failures.append(f"{job.name}, round {number}: {sorted(found)}")
    job.run(target)
    beside = [path.name for path in home.iterdir() if path != target]
    if beside:
        failures.append(f"{job.name}: what killed runs left stays: {beside[:3]}")
    return {
        "killed": done,
        "outcomes": dict(sorted(outcomes.items())),
        "left_by_killed_runs": left,
        "failures": failures,
    }


def kill(count: int, seed: int) -> dict[str, Any]:
    """Kill about ``count`` jobs, as many of each, and return the result as for JSON."""
    rng = random.Random(seed)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        listed = jobs(folder)
        each = -(-count // len(listed))
        rows = {job.name: one_job(job, folder / job.name, each, rng) for job in listed}
    return {
        "schema": "hydraopt.kill/2",
        "command": f"python -m benchmarks.hostile kill --count {count} --seed {seed}",
        "count": count,
        "seed": seed,
        "killed": sum(row["killed"] for row in rows.values()),
        "damaged": sum(row["outcomes"].get("DAMAGED", 0) for row in rows.values()),
        "failures": [failure for row in rows.values() for failure in row.pop("failures")],
        "jobs": rows,
        "seconds": round(time.monotonic() - started, 1),
        **environment(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args(arguments)
    result = kill(options.count, options.seed)
    write_result(result, options.json)
    for name, row in result["jobs"].items():
        print(f"{name}: {row['killed']} killed, {row['outcomes']}", file=sys.stderr)
    print(*result["failures"], sep="\n", file=sys.stderr)
    return 1 if result["failures"] else 0
