"""Measure memory and disk reads of this process, as the system counts them.

Linux tells all of it; elsewhere what is not told is None.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

__all__ = [
    "disk_bytes",
    "forget",
    "growth",
    "limited",
    "peak_bytes",
    "resident_bytes",
    "start_peak",
]

PROCESSES = Path("/proc")


def forget(path: Path) -> bool:
    """Ask the system to drop a file from its page cache, so that the next read is of the disk.

    False where it cannot be asked. It may still keep what others use, or have no disk below (a
    file in memory): :func:`disk_bytes` tells.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    with path.open("rb") as stream:
        os.fsync(stream.fileno())  # what is not yet written is not dropped
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def disk_bytes() -> int | None:
    """Return the bytes that this process has made the system fetch from disks so far.

    Read-ahead is included.
    """
    return _field("io", "read_bytes")


def resident_bytes(process: int | str = "self") -> int | None:
    """Return the memory that this process, or another one by its id, holds now."""
    return _kibibytes("VmRSS", process)


def peak_bytes() -> int | None:
    """Return the most memory held since :func:`start_peak`, or since the process began."""
    return _kibibytes("VmHWM")


def start_peak() -> int | None:
    """Give what is free back to the system, forget the peak so far, and return what is held now.

    None where the peak cannot be forgotten; then growth cannot be told.
    """
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc's
    try:
        (PROCESSES / "self" / "clear_refs").write_text("5")
    except OSError:
        return None
    return resident_bytes()


def growth(start: int | None, peak: int | None) -> int | None:
    """Return the growth from what :func:`start_peak` returned to a peak since then.

    None if either is not told.
    """
    return None if start is None or peak is None else max(peak - start, 0)


@contextlib.contextmanager
def limited(threads: int) -> Iterator[None]:
    """Let torch and BLAS use so many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


def _kibibytes(name: str, process: int | str = "self") -> int | None:
    value = _field("status", name, process)
    return None if value is None else value << 10


def _field(file: str, name: str, process: int | str = "self") -> int | None:
    """Return the number of a line "NAME: NUMBER ..." of a file about a process."""
    try:
        lines = (PROCESSES / str(process) / file).read_text().splitlines()
    except OSError:
        return None
    values = (x.partition(":")[2].split()[0] for x in lines if x.startswith(f"{name}:"))
    return next((int(x) for x in values), None)
