"""Versions and files behind a result; imports little, so that benchmarks can use it too."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hydraopt.files.reading import file_hash

__all__ = ["versions", "weights_hash"]


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and the packages, by name, or "not installed"."""
    numbers = {"python": platform.python_version()}
    for name in packages:
        try:
            numbers[name] = version(name)
        except PackageNotFoundError:
            numbers[name] = "not installed"
    return numbers


def weights_hash(base: Path) -> str | None:
    """Hash the weight files' hashes in order of name; None if the base is not a local folder."""
    files = sorted(base.glob("*.safetensors")) if base.is_dir() else []
    together = hashlib.sha256("".join(map(file_hash, files)).encode())
    return together.hexdigest() if files else None
