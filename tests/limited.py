"""Work in a process of its own, under limits of memory and processor time."""

from __future__ import annotations

import multiprocessing as mp
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["run_limited"]

# What the work needs is loaded once, in a process that each case is forked from.
_CASES = mp.get_context("forkserver")
_CASES.set_forkserver_preload(["hydraopt.inspect.bundle", "hydraopt.bundle.peft.folder", __name__])


def run_limited(
    work: Callable[[Path], object], sound: Path, path: Path, megabytes: int, seconds: int
) -> str:
    """What ``work(path)`` raises, as "Class: message", or "done".

    ``work(sound)`` is done before, without limits, so that what it loads and compiles does not
    count. megabytes: of address space beyond that. seconds: of the processor.
    """
    ours, theirs = _CASES.Pipe()
    os.environ.setdefault("MALLOC_ARENA_MAX", "1")
    process = _CASES.Process(target=_run, args=(theirs, work, sound, path, megabytes, seconds))
    process.start()
    theirs.close()
    try:
        return str(ours.recv())
    except EOFError:
        process.join()
        return f"died, exit code {process.exitcode}"
    finally:
        process.join(5)
        process.kill()


def _run(
    pipe: Any, work: Callable[[Path], object], sound: Path, path: Path, megabytes: int, seconds: int
) -> None:
    work(sound)
    status = Path("/proc/self/statm").read_text().split()
    room = int(status[0]) * resource.getpagesize() + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    used = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2])) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, used + seconds))
    try:
        work(path)
        pipe.send("done")
    except BaseException as error:
        pipe.send(f"{type(error).__name__}: {error}")
