"""One merge of a fleet, in a process of its own. Prints a JSON line: seconds and memory.

    python -m benchmarks.speed.child_fleet WORKERS MEMORY SIZE OUTPUT FOLDER_OF_ADAPTERS COUNT

MEMORY: bytes that a worker may keep, 0 for the default. Of the folder the first COUNT are merged.
Peak memory of the worker processes is looked at whenever the merge says how far it is.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from hydraopt.engines.engine import Local
from hydraopt.merging.merge import merge

__all__ = ["main"]


def _peak(pid: str) -> int:
    """Return the bytes that a process has had resident at most; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * next((int(x.split()[1]) for x in lines if x.startswith("VmHWM:")), 0)


def _read() -> int:
    """Return the bytes that this process has read from files, so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith("rchar:"))


def main() -> None:
    """Run the command line."""
    workers, memory, size, output, place, count = sys.argv[1:]
    folders = sorted(x for x in Path(place).iterdir() if x.is_dir())[: int(count)]
    engine = Local(int(workers), memory=int(memory) or None)
    peaks: dict[str, int] = {}

    def look(stage: str, done: int, total: int) -> None:
        children = Path("/proc/self/task").glob("*/children")
        for pid in ("self", *(pid for file in children for pid in file.read_text().split())):
            peaks[pid] = max(peaks.get(pid, 0), _peak(pid))

    before = resource.getrusage(resource.RUSAGE_SELF)
    started, imported = time.monotonic(), _peak("self")
    result = merge(folders, output, size=size, workers=engine, progress=look)
    wall = time.monotonic() - started
    own = resource.getrusage(resource.RUSAGE_SELF)
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = own.ru_utime + own.ru_stime - before.ru_utime - before.ru_stime
    look("", 1, 1)
    print(
        json.dumps(
            {
                "wall": round(wall, 2),
                "cpu": [round(cpu, 2), round(others.ru_utime + others.ru_stime, 2)],
                "imported": imported,
                "peaks": sorted(peaks.values(), reverse=True),
                "bytes": result.size,
                "fp16_bytes": result.fp16_bytes,
                "passes": result.passes,
                "read": _read(),
            }
        )
    )


if __name__ == "__main__":
    main()
