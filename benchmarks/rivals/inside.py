"""Helper inside the environment of a package, where hydraopt is not installed."""

from __future__ import annotations

from pathlib import Path

__all__ = ["folder_bytes"]


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
