"""Names of the files that a bundle in several files has."""

from __future__ import annotations

from typing import Final

__all__ = ["CORE_SUFFIX", "INDEX_NAME", "TASK_SUFFIX", "is_part"]

CORE_SUFFIX: Final = ".core.safetensors"
TASK_SUFFIX: Final = ".task.safetensors"
INDEX_NAME: Final = "tasks.index.safetensors"
"""Name of the index of a folder."""


def is_part(name: str) -> bool:
    """Return True if the name is that of a core file, a task file or an index."""
    return name.endswith((CORE_SUFFIX, TASK_SUFFIX)) or name == INDEX_NAME
