"""The kinds of collections that the contract holds for, and what their bytes are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hydraopt.bundle import Bundle, open_bundle, split
from hydraopt.files import INDEX_NAME


@dataclass(frozen=True)
class Kind:
    """make: a collection of that kind, of a bundle, at a path without a suffix; where it lies."""

    name: str
    make: Callable[[Path, Path], Path]


def _file(bundle: Path, at: Path) -> Path:
    target = at.with_name(at.name + ".hydra.safetensors")
    shutil.copy(bundle, target)
    return target


def _folder(bundle: Path, at: Path) -> Path:
    split(bundle, at)
    return at


def kinds() -> list[Kind]:
    return [Kind("file", _file), Kind("folder", _folder)]


def copied(collection: Path, folder: Path) -> Path:
    """A copy of a collection, in a new folder."""
    folder.mkdir()
    copy = shutil.copytree if collection.is_dir() else shutil.copy
    return Path(copy(collection, folder / collection.name))


def state(path: Path) -> dict[str, bytes]:
    """The bytes of all files of a collection, by name; of what starts with a dot none, nor of the
    index, which has the times of the others."""
    files = [path] if path.is_file() else sorted(path.iterdir())
    kept = (x for x in files if not x.name.startswith(".") and x.name != INDEX_NAME)
    return {file.name: file.read_bytes() for file in kept}


def bytes_of(bundle: Bundle, name: str) -> tuple[bytes, ...]:
    """A task's stream and what it carries, as they lie in a file."""
    task = bundle[name]
    content = task.entry.content
    stream = b"" if content is None else task.read(f"task/{content}")
    return (stream, *sorted(task.read(f"carried/{i}") for i in task.entry.carried))


def all_bytes(path: Path) -> dict[str, tuple[bytes, ...]]:
    """The bytes of every task, and of the core."""
    bundle = open_bundle(path)
    return {name: bytes_of(bundle, name) for name in bundle} | {"": (bundle.read("shared"),)}
