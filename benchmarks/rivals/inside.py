"""Helpers inside the environment of a package; they need only safetensors and torch.

There the package is installed and hydraopt is not.
"""

from __future__ import annotations

import shutil
from pathlib import Path

__all__ = ["folder_bytes", "halve"]


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def halve(source: Path, target: Path) -> None:
    """Copy a folder, every tensor in float16."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target, dirs_exist_ok=True)
    for path in target.rglob("*.safetensors"):
        save_file({key: x.half() for key, x in load_file(str(path)).items()}, str(path))
