"""Report of a refresh: the size and error over a new core, and the tasks whose errors grow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hydraopt.bundle.spec import Manifest
from hydraopt.files.url import AnyPath
from hydraopt.notes import Note

__all__ = ["MORE", "Expected", "Grown", "Refreshed", "grown"]

MORE: Final = 1.1
"""Factor above which an error counts as grown."""


@dataclass(frozen=True)
class Grown:
    """A task whose error grows by more than a tenth, as its entry states it before and after."""

    name: str
    before: float
    after: float


@dataclass(frozen=True)
class Expected:
    """Size of a collection over a new core.

    size (bytes): of the whole now. expected_size (bytes): of the whole over a new core; of a folder
    at most. coded_bytes: of the core and all streams now. expected_bytes: of those over a new core.
    added: tasks that came after the merge. decoded: tasks that are taken as the collection holds
    them, since no original is given.
    """

    path: AnyPath
    size: int
    expected_size: int
    coded_bytes: int
    expected_bytes: int
    tasks: int
    added: int
    decoded: int
    grown: tuple[Grown, ...]

    @property
    def saved(self) -> float:
        """Share of the whole that a new core would save; below 0 if it costs."""
        return 1 - self.expected_size / self.size if self.size else 0.0


@dataclass(frozen=True)
class Refreshed:
    """Collection with a new core.

    size_before, size: bytes of the whole.
    errors: error of each task.
    from_originals: tasks that were coded from their originals.
    """

    path: AnyPath
    size_before: int
    size: int
    errors: Mapping[str, float]
    from_originals: tuple[str, ...]
    seconds: float
    notes: tuple[Note, ...] = ()
    grown: tuple[Grown, ...] = ()


def grown(before: Manifest, after: Manifest) -> tuple[Grown, ...]:
    """Return the tasks in both manifests whose errors grow by more than a tenth."""
    old = {task.name: task.error for task in before.tasks}
    return tuple(
        Grown(task.name, old[task.name], task.error)
        for task in after.tasks
        if task.name in old and task.error > MORE * old[task.name]
    )
