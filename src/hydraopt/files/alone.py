"""One process at a time, by a file that is locked and stays where it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where two processes may be at it together.
    fcntl = None  # type: ignore[assignment]

__all__ = ["alone"]


@contextmanager
def alone(lock: Path) -> Iterator[int]:
    """Hold the lock, waiting for it; the descriptor of its file. Raises OSError."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
