"""Memory that this process may take, of the machine or of its container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["most_memory"]

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
