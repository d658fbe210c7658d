"""Merge on one core, in a process of its own. Prints JSON lines: CPU seconds of each run, then the
bundle's size and the mean error of its tasks.

    python -m benchmarks.speed.child_revision REPEATS SIZE WORK ADAPTER_FOLDER...

A merge of two of the adapters goes before, so that compiled code is loaded. SIZE "least": the least
that a merge could do, in place of one (benchmarks/speed/baseline.py), for a bundle of a tenth.
"""

from __future__ import annotations

import sys
from inspect import signature
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.speed.clock import say, timed


def main() -> None:
    repeats, size, work = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    folders = [Path(folder) for folder in sys.argv[4:]]
    if size == "least":
        from benchmarks.speed.baseline import baseline

        written = (
            sum(file.stat().st_size for x in folders for file in x.glob("*.safetensors")) // 10
        )
        for _ in range(repeats):
            timed("least", lambda: baseline(folders, work / "least", written, "float64"))
        return
    from hydraopt.merging.merge import merge

    target = work / "merged.hydra.safetensors"
    # Until 2026-11-26 work was shared out to threads.
    one: dict[str, Any] = {"workers" if "workers" in signature(merge).parameters else "threads": 1}
    merge(folders[:2], target, size=size, **one)
    for _ in range(repeats):
        made = timed("merge", lambda: merge(folders, target, size=size, **one))
    say({"run": "about", "bytes": made.size, "error": mean(made.errors.values())})


if __name__ == "__main__":
    main()
