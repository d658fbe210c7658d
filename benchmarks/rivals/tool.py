"""What is timed of a rival, and of hydraopt, in a process of its own.

This file also runs in the environment of a package, where hydraopt is not installed.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["Tool", "folder_bytes"]


class Tool:
    """folders: of the adapters. saved: the folder of what a merge leaves behind.

    A tool that keeps nothing from which a task comes back has no ``open``, ``task``, ``export``.
    """

    def __init__(self, folders: list[Path], work: Path) -> None:
        self.folders = folders
        self.names = [folder.name for folder in folders]
        self.saved, self.exported = work / "saved", work / "exported"
        self.saved.mkdir(parents=True, exist_ok=True)

    def prepare(self) -> None:
        """Do what comes before a merge and is not timed."""

    def merge(self) -> None:
        """Put the adapters together and save that."""
        raise NotImplementedError

    def open(self) -> None:
        """Open what was saved."""
        raise NotImplementedError

    def task(self) -> None:
        """Rebuild the first task's factors."""
        raise NotImplementedError

    def export(self) -> None:
        """Write the first task as a PEFT folder."""
        raise NotImplementedError


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
