"""kill -9 at random moments of a merge: the target's name never stands for half a file.

    python -m benchmarks.hostile kill --count 100 --seed 0 --json FILE

Each round forks a process that merges the same adapters into the same target, and kills it: in half
of the rounds at a moment drawn from the whole merge, in the other half from the writing of the
file, which is over in a few milliseconds. Rounds go on until --count merges were killed. In every
second round an older bundle is at the target. Afterwards the target must be what it was before, or
exactly the bytes that an undisturbed merge writes. A temporary file beside it may stay. Exit code 1
if anything else is found.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import parser_of
from benchmarks.hostile.fuzz import environment, write_result
from benchmarks.hostile.samples import tensors, write_peft


def merge_to(target: Path, adapters: list[Path], when_writing: int | None = None) -> float:
    """Merge; a byte goes to the pipe ``when_writing`` just before the file is written.

    Returns the seconds that writing took.
    """
    from hydraopt.bundle import writer
    from hydraopt.merging.merge import merge

    plain = writer.write_atomically
    seconds = 0.0

    def told(path: Path, chunks: Any) -> int:
        nonlocal seconds
        if when_writing is not None:
            os.write(when_writing, b"w")
        started = time.monotonic()
        size = plain(path, chunks)
        seconds = time.monotonic() - started
        return size

    writer.write_atomically = told
    try:
        merge(adapters, target, error=0.05, threads=1)
    finally:
        writer.write_atomically = plain
    return seconds


def one_round(
    target: Path, adapters: list[Path], whole: float, writing: float | None
) -> tuple[bool, bool]:
    """Kill a merge after ``whole`` seconds, or ``writing`` seconds into the writing.

    Returns whether it was killed (it may have been faster), and whether it had begun to write.
    """
    heard, said = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            merge_to(target, adapters, said)
        finally:
            os._exit(0)
    os.close(said)
    if writing is None:
        time.sleep(whole)
    else:
        os.read(heard, 1)  # returns nothing if the child ended without writing
        time.sleep(writing)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.set_blocking(heard, False)
    try:
        began = writing is not None or os.read(heard, 1) == b"w"
    except BlockingIOError:
        began = False
    os.close(heard)
    return os.WIFSIGNALED(status), began


def written_adapters(folder: Path) -> list[Path]:
    """Four adapters below ``folder``; one has a tensor of 4 MB, so that the writing of a merge
    takes long enough to be hit in its middle."""
    head = np.random.default_rng(0).standard_normal((1024, 2048)).astype(np.float16)
    adapters = []
    for i in range(4):
        data = tensors(i, m=96, n=128, r=8, layers=6)
        if i == 3:
            data["base_model.model.lm_head.weight"] = head
        adapters.append(write_peft(folder / f"a{i}", data, 8))
    return adapters


def kill(count: int, seed: int) -> dict[str, Any]:
    """Run ``count`` rounds; the result as for JSON."""
    rng = random.Random(seed)
    started = time.monotonic()
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    left_over = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        adapters = written_adapters(folder)
        target = folder / "out" / "all.hydra.safetensors"
        target.parent.mkdir()
        merge_to(target, adapters[:2])
        old = target.read_bytes()
        merge_to(target, adapters)
        moment = time.monotonic()
        writing_time = min(merge_to(target, adapters) for _ in range(3))
        duration = (time.monotonic() - moment) / 3
        new = target.read_bytes()
        killed_count = number = 0
        # Rounds in which the merge was faster than the signal do not count.
        while killed_count < count and number < 10 * count:
            number += 1
            for path in target.parent.iterdir():
                path.unlink()
            before = old if number % 2 else None
            if before is not None:
                target.write_bytes(before)
            whole = rng.uniform(0, duration)
            writing = rng.uniform(0, writing_time) if number % 4 >= 2 else None
            killed, began = one_round(target, adapters, whole, writing)
            killed_count += killed
            found = target.read_bytes() if target.exists() else None
            left_over += len(list(target.parent.iterdir())) - (found is not None)
            state = "as it was" if found == before else "the new bundle"
            if found not in (before, new):
                state = "FAILED"
                failures.append(f"round {number}: {len(found or b'')} bytes, {len(new)} expected")
            moment_of = "while writing" if began else "before writing"
            outcomes[f"{'killed ' + moment_of if killed else 'was faster'}: {state}"] += 1
    return {
        "schema": "hydraopt.kill/1",
        "command": f"python -m benchmarks.hostile kill --count {count} --seed {seed}",
        "count": count,
        "seed": seed,
        "killed": killed_count,
        "outcomes": dict(sorted(outcomes.items())),
        "temporary_files_left": left_over,
        "failures": failures,
        "merge_s": round(duration, 3),
        "writing_s": round(writing_time, 5),
        "bundle_bytes": len(new),
        "seconds": round(time.monotonic() - started, 1),
        **environment(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args(arguments)
    result = kill(options.count, options.seed)
    write_result(result, options.json)
    print(result["outcomes"], *result["failures"], sep="\n", file=sys.stderr)
    return 1 if result["failures"] else 0
