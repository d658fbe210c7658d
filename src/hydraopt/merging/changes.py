"""Changes to a collection: add, remove, replace, rename.

Each holds the collection's lock from the first byte that it reads to the last that it writes, and
checks everything before it writes. When its process is killed, a bundle in one file is the old one
or the new one. In a folder this holds for each task: of several tasks, some may be changed and the
others not. Each task is readable, and the same command for the others continues the work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

from hydraopt.adapters import Adapter, BaseTensors, check_name, open_base
from hydraopt.bundle import Bundle, BundleStorage, collection_at, no_such_task
from hydraopt.errors import UsageError, explain
from hydraopt.files import AnyPath, StrPath, check_apart, place_of
from hydraopt.merging.alignment import coded_of
from hydraopt.merging.coder import AddedTask, Coder, check_fits, check_modules, keeps_all, today
from hydraopt.merging.job import inputs_of, load
from hydraopt.merging.limits import Limit
from hydraopt.merging.options import Look, MergeOptions, check_prompted
from hydraopt.merging.tensors import check_exact
from hydraopt.merging.workers import Engine
from hydraopt.notes import Note
from hydraopt.progress import Progress


@dataclass(frozen=True)
class Changed:
    """Result of a change.

    size_before, size: bytes of the whole collection.
    removed, renamed: names.
    warnings: problems that left every task as it should be.
    """

    path: AnyPath
    size_before: int
    size: int
    added: tuple[AddedTask, ...] = ()
    removed: tuple[str, ...] = ()
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    warnings: tuple[Note, ...] = ()


class How(TypedDict, total=False):
    """Options for coding adapters, each by itself against the core.

    exact, same_base, alpha, base, trace, workers, progress: as in :func:`hydraopt.merge`.
    limit: limit for each adapter. Default: the price of a bit that the merge arrived at.
    look: base model, as in hydraopt.merge; nothing is trained.
    day: date for the history, ISO. Default: today, in UTC.
    """

    limit: Limit | None
    look: Look | None
    exact: Sequence[str]
    same_base: bool
    alpha: float | None
    base: StrPath | BaseTensors | None
    trace: bool
    workers: int | Engine | None
    progress: Progress | None
    day: str | None


def add(
    path: StrPath, adapters: StrPath | Iterable[StrPath | Adapter], **how: Unpack[How]
) -> Changed:
    """Add adapters to the collection at ``path``.

    adapters: as in :func:`hydraopt.merge`. how: see :class:`How`. The same core, adapter, limit and
    day give the same bytes, in whatever order adapters are added. Raises UsageError for a name that
    is there already, BundleFormatError for a task file that cannot be read, since it may have that
    name, and a HydraoptError for anything else that is wrong, before anything is written.
    """
    return _put(path, adapters, False, how)


def replace(
    path: StrPath, adapters: StrPath | Iterable[StrPath | Adapter], **how: Unpack[How]
) -> Changed:
    """Put other adapters in the place of tasks of the same names; otherwise as :func:`add`.

    Raises TaskNotFoundError for a name that is not there.
    """
    return _put(path, adapters, True, how)


def check_before(
    path: StrPath,
    adapters: Sequence[Adapter],
    limit: Limit,
    *,
    replaces: bool,
    same_base: bool = False,
    prompted: bool = False,
) -> None:
    """Raise the errors of a change that need no base model, before one is loaded.

    They are about names, base models, modules, limits and prompts.

    replaces: whether the change is :func:`replace`, not :func:`add`.
    prompted: whether there are prompts.
    """
    check_apart(path, inputs_of(adapters))
    collection = collection_at(path)
    _checked(collection, collection.core(), adapters, replaces, limit, same_base, prompted)


def _checked(
    collection: BundleStorage,
    core: Bundle,
    adapters: Sequence[Adapter],
    replaces: bool,
    limit: Limit,
    same_base: bool,
    prompted: bool,
) -> Sequence[str]:
    """Return the tasks to remove; raise every error that can be found before long work."""
    gone = _gone(collection, [x.name for x in adapters], replaces)
    lossless = keeps_all(limit, core)
    for adapter in adapters:
        check_fits(core, adapter, same_base)
        if not lossless:
            check_modules(core, adapter)
        limit.budget(2 * adapter.numbers)
    if prompted and lossless:
        raise _changes_nothing(collection.path, limit)
    return gone


def _gone(collection: BundleStorage, names: Sequence[str], replaces: bool) -> Sequence[str]:
    """Return the tasks that adapters of these names replace.

    Raises TaskNotFoundError for a name that is to be replaced and does not exist, and UsageError
    for a name that is to be added and exists.
    """
    if replaces:
        _check_there(collection, names)
        return names
    taken = collection.names()
    there = [name for name in names if name in taken]
    if there:
        raise UsageError(
            explain(
                "the collection has a task of that name",
                file=place_of(collection.path),
                got=", ".join(there[:8]),
                do="Replace it (in Python replace(), otherwise hydraopt add --replace), or give "
                "another name: NAME=PATH",
            )
        )
    return ()


def _changes_nothing(path: AnyPath, limit: Limit) -> UsageError:
    """Return the error for prompts over a lossless core."""
    more = "" if limit.lossless else ", or give a limit: --size, --max-error or --harm"
    return UsageError(
        explain(
            "what is kept bit by bit changes no answer",
            file=place_of(path),
            got="prompts",
            do=f"Leave them out{more}",
        )
    )


def remove(path: StrPath, tasks: Iterable[str]) -> Changed:
    """Remove tasks. No byte that was theirs alone is left; those of others stay as they are.

    The core stays, too: it was made for all the tasks of the merge, and :func:`refresh` makes
    another one. Raises TaskNotFoundError.
    """
    names = sorted(set(tasks))
    collection = collection_at(path)
    with collection.locked():
        _check_there(collection, names)
        before = collection.size()
        size, warnings = collection.write(names)
    return Changed(place_of(path), before, size, removed=tuple(names), warnings=warnings)


def rename(path: StrPath, old: str, new: str) -> Changed:
    """Rename a task.

    Raises TaskNotFoundError, and UsageError for a name that is taken or invalid.
    """
    check_name(new)
    collection = collection_at(path)
    with collection.locked():
        _check_there(collection, [old])
        if new in collection.names():
            raise UsageError(
                explain(
                    "the collection has a task of that name",
                    file=place_of(path),
                    got=new,
                    do="Choose another name, or remove that task first",
                )
            )
        before = collection.size()
        piece = collection.piece(old).renamed(new)
        size, warnings = collection.write([old], [piece])
    return Changed(place_of(path), before, size, renamed={old: new}, warnings=warnings)


def _check_there(collection: BundleStorage, names: Iterable[str]) -> None:
    for name in names:
        if not collection.has(name):
            raise no_such_task(name, collection.names(), collection.path)


def _put(
    path: StrPath,
    adapters: StrPath | Iterable[StrPath | Adapter],
    replaces: bool,
    how: How,
) -> Changed:
    """Encode the adapters and write them in place of any tasks of the same names."""
    if unknown := sorted(how.keys() - How.__annotations__.keys()):
        raise TypeError(f"these options are of a merge alone: {', '.join(unknown)}")
    given_options: dict[str, Any] = {name: x for name, x in how.items() if x is not None}
    day = given_options.pop("day", None) or today()
    options = MergeOptions(**given_options)
    loaded = load(adapters, options.same_base, options.alpha)
    if not loaded.adapters:
        raise UsageError(explain("nothing to add", got="no adapters", do="Name at least one"))
    given = sorted(loaded.adapters, key=lambda x: x.name)
    check_exact(given, options.exact)
    base, judge = open_base(options.base), options.look.judge
    collection = collection_at(path)
    check_apart(path, inputs_of(given))
    with collection.locked():
        core, limit, same_base = collection.core(base), options.limit, options.same_base
        gone = _checked(collection, core, given, replaces, limit, same_base, judge is not None)
        if limit.harm is not None:
            check_prompted(coded_of(given, options.exact), options.look.tasks)
        coder = Coder(core, options, base)
        before = collection.size()
        made = [coder.encode(adapter, day) for adapter in options.traced(given)]
        size, warnings = collection.write(gone, [x.piece for x in made])
    notes = (*loaded.notes, *(note for x in made for note in x.notes))
    rows = tuple(x.added for x in made)
    return Changed(collection.path, before, size, rows, notes=notes, warnings=warnings)
