"""Merge and baseline in turn, in a process of its own. Prints JSON lines.

    python -m benchmarks.speed.child_merge REPEATS SIZE WORK ADAPTER_FOLDER...

Each line has wall and CPU seconds of one run; the last one has the memory of the whole process.
With REPEATS 0: one merge and nothing else, for its peak memory.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from benchmarks.speed.clock import peak, resident, say, timed
from hydraopt.merging.merge import merge


def main() -> None:
    """Run the command line."""
    repeats, size, work = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    folders = [Path(folder) for folder in sys.argv[4:]]
    target = work / "merged.hydra.safetensors"
    imported = resident()
    result = timed("first merge", lambda: merge(folders, target, size=size))
    most = peak()
    if repeats:
        from benchmarks.speed.baseline import baseline

        for _ in range(repeats):
            for dtype in ("float64", "float32"):
                least = partial(baseline, folders, work / "least", result.size, dtype)
                timed(f"baseline {dtype}", least)
            timed("merge", lambda: merge(folders, target, size=size))
    inputs = sum(path.stat().st_size for f in folders for path in f.glob("*.safetensors"))
    about = {"run": "about", "imported": imported, "peak": most, "inputs": inputs}
    about |= {"bundle": result.size, "passes": result.passes, "fp16": result.fp16_bytes}
    say(about)


if __name__ == "__main__":
    main()
