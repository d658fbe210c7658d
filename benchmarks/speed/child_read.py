"""Read tasks of a bundle back on one core. Prints a JSON line a run.

    python -m benchmarks.speed.child_read REPEATS BUNDLE

"opened": decode one task of an open bundle whose shared bases are read. "cold": drop the file from
the page cache, open it, decode one task. The first line is the first decode of the process, which
loads the compiled code from its cache. Numbers are those of the original adapter.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

# Before numpy is loaded, which reads these.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

from benchmarks.speed.clock import forget, say  # noqa: E402
from hydraopt.collection.opening import open_bundle  # noqa: E402


def decode(path: Path, name: str, cold: bool, label: str) -> None:
    """Decode a task, and print a line with the seconds that it took."""
    if cold:
        forget(path)
        wall, cpu = time.perf_counter(), time.process_time()
        bundle = open_bundle(path)
    else:
        bundle = open_bundle(path)
        bundle.bases(0)
        wall, cpu = time.perf_counter(), time.process_time()
    task = bundle[name]
    factors = task.factors()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    row = {"run": label, "wall": wall, "cpu": cpu, "task": name, "numbers": task.entry.numbers}
    row["decoded"] = sum(x.B.size + x.A.size for x in factors.values())
    say(row)


def main() -> None:
    """Run the command line."""
    repeats, path = int(sys.argv[1]), Path(sys.argv[2])
    names = list(open_bundle(path))
    decode(path, names[0], True, "first")
    for _ in range(repeats):
        for name in names:
            decode(path, name, False, "opened")
            decode(path, name, True, "cold")


if __name__ == "__main__":
    main()
