"""Cores of this process, and parallel work in its threads.

Threads help calls that release the interpreter, such as compiled code and numpy on large arrays.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, TypeVar

__all__ = ["cores", "in_threads", "one_blas_thread"]

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
