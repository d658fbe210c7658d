"""Progress reports of long operations."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Progress", "silent"]

Progress = Callable[[str, int, int], None]
"""Called with a stage, units done, units in all."""


def silent(stage: str, done: int, total: int) -> None:
    """Ignore all progress reports."""
