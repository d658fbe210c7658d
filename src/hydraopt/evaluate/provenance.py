"""Which versions and files made a result; light, so that benchmarks can use it too."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["file_hash", "versions", "weights_hash"]


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of Python and of the packages, by name; "not installed" where one is missing."""
    numbers = {"python": platform.python_version()}
    for name in packages:
        try:
            numbers[name] = version(name)
        except PackageNotFoundError:
            numbers[name] = "not installed"
    return numbers


def file_hash(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_hash(base: Path) -> str | None:
    """Of the weight files' hashes in order of name; None if the base is no local folder."""
    files = sorted(base.glob("*.safetensors")) if base.is_dir() else []
    together = hashlib.sha256("".join(map(file_hash, files)).encode())
    return together.hexdigest() if files else None
