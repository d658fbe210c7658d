"""Merge and baseline in turn, in a process of its own. Prints JSON lines.

    python child_merge.py REPEATS SIZE WORK ADAPTER_FOLDER...

Each line has wall and CPU seconds of one run; the last one has the memory of the whole process.
With REPEATS 0: one merge and nothing else, for its peak memory.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hydraopt.merging import merge  # noqa: E402


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def timed(name: str, run: Callable[[], Any]) -> Any:
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"run": name, "wall": wall, "cpu": cpu}), flush=True)
    return result


def main() -> None:
    repeats, size, work = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    folders = [Path(folder) for folder in sys.argv[4:]]
    target = work / "merged.hydra.safetensors"
    imported = resident()
    result = timed("first merge", lambda: merge(folders, target, size=size))
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if repeats:
        from benchmarks.speed.baseline import baseline

        for _ in range(repeats):
            for dtype in ("float64", "float32"):
                timed(
                    f"baseline {dtype}",
                    lambda dtype=dtype: baseline(folders, work / "least", result.size, dtype),
                )
            timed("merge", lambda: merge(folders, target, size=size))
    inputs = sum(path.stat().st_size for f in folders for path in f.glob("*.safetensors"))
    about = {"run": "about", "imported": imported, "peak": peak, "inputs": inputs}
    about |= {"bundle": result.size, "passes": result.passes, "fp16": result.fp16_bytes}
    print(json.dumps(about), flush=True)


if __name__ == "__main__":
    main()
