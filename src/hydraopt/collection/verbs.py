"""What is done to a collection: add, remove, replace, rename.

Each holds the collection's lock from the first byte that it reads to the last that it writes, and
checks everything before it writes. What it leaves is the old state or the new one.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydraopt.adapters import Adapter
from hydraopt.adapters.basefiles import BaseTensors, open_base
from hydraopt.adapters.sources import check_name
from hydraopt.bundle.harm import Harm
from hydraopt.collection.encode import Coder, Encoded, Limit, today
from hydraopt.collection.kinds import Collection, StrPath, collection_at
from hydraopt.collection.piece import Change
from hydraopt.errors import TaskNotFoundError, UsageError, explain
from hydraopt.files.apart import check_apart
from hydraopt.merging.harm.judging import HarmJudge
from hydraopt.merging.outcome import inputs_of, load
from hydraopt.merging.weights import Sensitivity
from hydraopt.progress import Progress

__all__ = ["AddedTask", "Changed", "Onlooker", "add", "remove", "rename", "replace"]


@dataclass(frozen=True)
class Onlooker:
    """Who has looked at the adapters with the base model; see hydraopt.merge."""

    sensitivity: Sensitivity = dataclasses.field(default_factory=dict)
    judge: HarmJudge | None = None


@dataclass(frozen=True)
class AddedTask:
    """A task that was added. error: relative, Frobenius. own_bytes: of its stream and of what it
    carries. fp16_bytes: of the adapter."""

    name: str
    error: float
    own_bytes: int
    fp16_bytes: int
    forms: Mapping[str, int]
    harm: Harm | None


@dataclass(frozen=True)
class Changed:
    """What was done. size_before, size: bytes of the whole collection. removed, renamed: names."""

    path: Path
    size_before: int
    size: int
    added: tuple[AddedTask, ...] = ()
    removed: tuple[str, ...] = ()
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**dataclasses.asdict(self), "path": str(self.path)}


@dataclass(frozen=True)
class _Given:
    """Adapters that were read, and what was noted on the way."""

    adapters: list[Adapter]
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls, adapters: StrPath | Iterable[StrPath | Adapter], same_base: bool, alpha: float | None
    ) -> _Given:
        loaded = load(adapters, same_base, alpha)
        if not loaded.adapters:
            raise UsageError(explain("nothing to add", got="no adapters", do="Name at least one"))
        return cls(sorted(loaded.adapters, key=lambda x: x.name), loaded.notes)


def add(
    path: StrPath,
    adapters: StrPath | Iterable[StrPath | Adapter],
    *,
    limit: Limit | None = None,
    onlooker: Onlooker | None = None,
    exact: Sequence[str] = (),
    same_base: bool = False,
    alpha: float | None = None,
    base: StrPath | BaseTensors | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    day: str | None = None,
) -> Changed:
    """Add adapters to the collection at ``path``, each coded by itself against its core.

    adapters, exact, same_base, alpha, base, threads, progress: as in :func:`hydraopt.merge`.
    limit: of each adapter; without one the price of a bit counts that the merge came to. onlooker:
    who has looked at them with the base model. day: for the history, ISO; default today, in UTC.

    The same core, adapter, limit and day give the same bytes, in whatever order adapters are added.
    Raises UsageError for a name that is there already, and a HydraoptError for anything else that
    is wrong, before anything is written.
    """
    given = _Given.of(adapters, same_base, alpha)

    def vacant(collection: Collection) -> None:
        there = sorted(x.name for x in given.adapters if collection.has(x.name))
        if there:
            raise UsageError(
                explain(
                    "the collection has a task of that name",
                    file=path,
                    got=", ".join(there[:8]),
                    do="Use replace, or another name: NAME=PATH",
                )
            )

    coder = _coder(limit, onlooker, exact, same_base, base, threads, progress)
    return _put(path, given, vacant, coder, day)


def replace(
    path: StrPath,
    adapters: StrPath | Iterable[StrPath | Adapter],
    *,
    limit: Limit | None = None,
    onlooker: Onlooker | None = None,
    exact: Sequence[str] = (),
    same_base: bool = False,
    alpha: float | None = None,
    base: StrPath | BaseTensors | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    day: str | None = None,
) -> Changed:
    """Put other adapters in the place of tasks of the same names; otherwise as :func:`add`.

    Raises TaskNotFoundError for a name that is not there.
    """
    given = _Given.of(adapters, same_base, alpha)
    names = [x.name for x in given.adapters]
    coder = _coder(limit, onlooker, exact, same_base, base, threads, progress)
    return _put(path, given, lambda there: _check_there(there, names), coder, day)


def remove(path: StrPath, tasks: Iterable[str]) -> Changed:
    """Remove tasks. No byte that was theirs alone is left; those of others stay as they are.

    The core stays, too: it was made for all the tasks of the merge, and :func:`refresh` makes
    another one. Raises TaskNotFoundError.
    """
    names = sorted(set(tasks))
    collection = collection_at(path)
    with collection.held():
        _check_there(collection, names)
        before = collection.size()
        size = collection.write(Change(gone=names))
    return Changed(Path(path), before, size, removed=tuple(names))


def rename(path: StrPath, old: str, new: str) -> Changed:
    """Call a task otherwise. Raises TaskNotFoundError, and UsageError for a name that is taken or
    cannot be one."""
    check_name(new)
    collection = collection_at(path)
    with collection.held():
        _check_there(collection, [old])
        if collection.has(new):
            raise UsageError(explain("the collection has a task of that name", file=path, got=new))
        before = collection.size()
        size = collection.write(Change(renamed={old: new}))
    return Changed(Path(path), before, size, renamed={old: new})


def _check_there(collection: Collection, names: Iterable[str]) -> None:
    for name in names:
        if not collection.has(name):
            there = collection.names()
            near = difflib.get_close_matches(name, there, 5, 0.5) or sorted(there)[:8]
            raise TaskNotFoundError(
                explain(
                    "no such task", file=collection.path, got=repr(name), expected=", ".join(near)
                )
            )


_MakeCoder = Callable[[Collection], Coder]


def _coder(
    limit: Limit | None,
    onlooker: Onlooker | None,
    exact: Sequence[str],
    same_base: bool,
    base: StrPath | BaseTensors | None,
    threads: int | None,
    progress: Progress | None,
) -> _MakeCoder:
    tensors, seen = open_base(base), onlooker or Onlooker()

    def make(collection: Collection) -> Coder:
        return Coder(
            collection.core(tensors),
            limit or Limit(),
            seen.sensitivity,
            seen.judge,
            exact,
            same_base,
            tensors,
            threads,
            progress,
        )

    return make


def _put(
    path: StrPath,
    given: _Given,
    check: Callable[[Collection], None],
    coder: _MakeCoder,
    day: str | None,
) -> Changed:
    """Code the adapters and write them, in the place of tasks of the same names, if there are."""
    collection, day = collection_at(path), day or today()
    check_apart(path, inputs_of(given.adapters))
    with collection.held():
        check(collection)
        before, at_hand = collection.size(), coder(collection)
        coded = [(adapter, at_hand.encode(adapter, day)) for adapter in given.adapters]
        gone = [x.name for x in given.adapters if collection.has(x.name)]
        size = collection.write(Change(gone, [x.piece for _, x in coded]))
    notes = (*given.notes, *(note for _, x in coded for note in x.notes))
    rows = tuple(_row(adapter, x) for adapter, x in coded)
    return Changed(collection.path, before, size, rows, notes=notes)


def _row(adapter: Adapter, coded: Encoded) -> AddedTask:
    entry = coded.piece.entry
    return AddedTask(
        entry.name, entry.error, coded.own_bytes, 2 * adapter.numbers, coded.forms, entry.harm
    )
