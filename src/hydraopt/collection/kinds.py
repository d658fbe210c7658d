"""The kinds of collections: what a change reads, and how it is written in one step."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection as Names
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hydraopt.adapters.basefiles import BaseTensors
from hydraopt.bundle.reader import Bundle, open_bundle
from hydraopt.bundle.writer import pack_bundle
from hydraopt.collection.lock import locked
from hydraopt.collection.piece import TaskPiece, held_in, packed_parts

__all__ = ["Change", "Collection", "collection_at"]

StrPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Change:
    """What goes, what comes and what is called otherwise, all at once.

    gone: names. come: tasks by themselves. renamed: new names by old ones.
    """

    gone: Names[str] = ()
    come: Sequence[TaskPiece] = ()
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Collection(Protocol):
    """Where a collection lies."""

    path: Path

    def held(self) -> Any:
        """A context in which nobody else writes. Raises LockedError."""
        ...

    def core(self, base: BaseTensors | None = None) -> Bundle:
        """What tasks are coded against: a bundle, maybe without tasks."""
        ...

    def names(self) -> set[str]:
        """The tasks that there are."""
        ...

    def bundle(self) -> Bundle:
        """All of it, open."""
        ...

    def size(self) -> int:
        """Bytes of the whole."""
        ...

    def write(self, change: Change) -> int:
        """Make a change; the bytes of the whole after it."""
        ...


def collection_at(path: StrPath) -> Collection:
    """The collection that lies there. Raises BundleFormatError for what is none."""
    return _OneFile(Path(path))


class _OneFile:
    """A bundle: every change writes the file anew, and takes over all bytes that stay."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: Bundle | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        with locked(self.path):
            self._open = None  # It may be another file by now.
            yield

    def bundle(self) -> Bundle:
        if self._open is None:
            self._open = open_bundle(self.path)
        return self._open

    def core(self, base: BaseTensors | None = None) -> Bundle:
        bundle = self.bundle()
        bundle.base = base or bundle.base
        return bundle

    def names(self) -> set[str]:
        return set(self.bundle())

    def size(self) -> int:
        return self.bundle().size

    def write(self, change: Change) -> int:
        bundle = self.bundle()
        pieces = [
            held_in(bundle, name).renamed(change.renamed.get(name, name))
            for name in bundle
            if name not in change.gone
        ]
        recipe = recipe_without(bundle.recipe, change)
        core = dataclasses.replace(bundle.manifest, tasks=(), blobs=(), configs=(), recipe=recipe)
        manifest, streams, blobs = packed_parts(core, [*pieces, *change.come])
        packed = pack_bundle(manifest, bundle.read("shared"), streams, blobs)
        size = packed.write(self.path)
        self._open = None
        return size


def recipe_without(recipe: Mapping[str, Any], change: Change) -> dict[str, Any]:
    """The recipe, which names tasks in one place, after a change."""
    seen = recipe.get("sensitivity")
    if not isinstance(seen, list):
        return dict(recipe)
    gone = set(change.gone)
    left = sorted(change.renamed.get(name, name) for name in seen if name not in gone)
    return {**recipe, "sensitivity": left} if left else _without(recipe, "sensitivity")


def _without(recipe: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in recipe.items() if name != key}
