"""Cores, threads and memory of this process.

Threads help calls that release the interpreter, such as compiled code and numpy on large arrays.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from hydraopt.errors import MemoryLimitError, explain

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """Return the number of cores of this process; of the machine where unreported (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def one_blas_thread() -> AbstractContextManager[Any]:
    """Limit numpy's BLAS to one thread, from the call until the context ends."""
    limit: AbstractContextManager[Any] = _libraries().limit(limits=1, user_api="blas")
    return limit


@cache
def _libraries() -> Any:
    """Return the loaded libraries; finding them reads the names of all that the process mapped."""
    import numpy  # noqa: F401  # so that its BLAS is there
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def in_threads(work: Callable[[T], R], some: Sequence[T], threads: int) -> Iterable[R]:
    """Return ``work`` of each in order, by at most this many threads; with one, on demand.

    Raises what the first that failed raised, after all have ended.
    """
    if min(threads, len(some)) < 2:
        return map(work, some)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(threads, len(some))) as pool:
        return list(pool.map(work, some))


GROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def most_memory() -> int:
    """Return the number of bytes that this process may take; 0 if the system has no answer.

    Windows has none.

    Linux sets limits by control groups, which lie in one another; the least of them counts.
    """
    known = getattr(os, "sysconf_names", {})
    if not {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= known.keys():
        return 0
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([whole, *_limits(OWN, GROUPS)])


def _limits(own: Path, groups: Path) -> Iterator[int]:
    """Return the limits in bytes. own: file that names the process's groups. groups: their root."""
    with suppress(OSError, ValueError):
        for row in own.read_text(encoding="utf-8").splitlines():
            number, kinds, path = row.split(":", 2)
            if number == "0":
                yield from _along(groups, path, "memory.max")
            elif "memory" in kinds.split(","):
                yield from _along(groups / "memory", path, "memory.limit_in_bytes")


def _along(root: Path, path: str, name: str) -> Iterator[int]:
    """Yield the limits of a group and of those around it.

    A container may see its own group as the root.
    """
    group = Path(path.lstrip("/"))
    for place in (group, *group.parents):
        with suppress(OSError, ValueError):  # no such group here, or no limit ("max")
            yield int((root / place / name).read_text())


def check_memory(needed: int) -> None:
    """Raise MemoryLimitError where the limit of the address space leaves less than needed bytes.

    Libraries in C end the process where they get no memory, so nothing can be said afterwards.
    """
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError, ValueError):
        return  # no such limit here, or no way to know what is taken
    if limit != resource.RLIM_INFINITY and limit - taken < needed:
        raise MemoryLimitError(
            explain(
                "the limit of this process's memory (ulimit -v) is too low",
                got=f"{max(limit - taken, 0) >> 20} MiB left of {limit >> 20}",
                expected=f"{needed >> 20} MiB or more",
                do="Raise the limit",
            )
        )
