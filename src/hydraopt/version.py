"""Version of this package, and hashes of its source for what is stored of its results."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

__version__ = "0.1.0"


PACKAGE = Path(__file__).resolve().parent


@functools.cache
def source_hash(*packages: str) -> str:
    """Return a hash of the Python source of these packages, with compiled files and tables.

    Args:
        packages: names of packages and modules directly below hydraopt, such as "linalg".
    """
    digest = hashlib.sha256()
    for name in sorted(packages):
        lone = PACKAGE / f"{name}.py"
        files = (
            [lone]
            if lone.is_file()
            else sorted(
                x
                for kind in ("*.py", "*.json", "*.so", "*.pyd")
                for x in (PACKAGE / name).rglob(kind)
            )
        )
        if not files:
            raise ValueError(f"hydraopt has no package {name}")
        for file in files:
            data = file.read_bytes()
            digest.update(f"{file.relative_to(PACKAGE).as_posix()} {len(data)}\n".encode() + data)
    return digest.hexdigest()
