"""Helpers of timed processes: lines of JSON, clocks, memory, files out of the page cache.

Also used inside other packages' environments, where hydraopt is not.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["cpu_seconds", "forget", "peak", "resident", "say", "timed"]

T = TypeVar("T")


def say(row: Mapping[str, Any]) -> None:
    """Print one line for the process that reads this one."""
    print(json.dumps(row), flush=True)


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of the child processes that have ended."""
    each = (resource.getrusage(x) for x in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(x.ru_utime + x.ru_stime for x in each)


def timed(name: str, run: Callable[[], T], limit: int = 0) -> T:
    """Say the wall and CPU seconds of a run, and return what it returned.

    limit: seconds after which SIGALRM ends the process, in the middle of whatever library it is in;
    0 for none.
    """
    signal.alarm(limit)
    wall, cpu = time.perf_counter(), cpu_seconds()
    result = run()
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    signal.alarm(0)
    say({"run": name, "wall": wall, "cpu": cpu})
    return result


def forget(path: Path) -> None:
    """Ask the system to drop the pages of a file, or of all below a folder.

    The next read is from the disk.
    """
    for file in (path, *path.rglob("*")):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak() -> int:
    """Return the most bytes of memory that this process has held."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
