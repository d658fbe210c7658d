"""Reading of probes at the paths that a user names, with duplicates removed, and sampled."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hydraopt.errors import UsageError, explain
from hydraopt.files.reading import file_hash
from hydraopt.probes.items import ProbeItem, sampled
from hydraopt.probes.kinds import NO_PROBE, PROBES, look, read_along
from hydraopt.probes.table import Loaded, writable

__all__ = ["PROBES", "ProbeSet", "read_probes"]

_MOST_FILES: Final = 5000
_DEPTH: Final = 6
_MOST_TEXT: Final = 4000
"""Maximum number of characters of a side with its prompt."""
MOST_ITEMS: Final = 500_000
"""Maximum number of items in all probes together, before sampling."""
_NAMED: Final = 5
"""Maximum number of skipped files named in a message."""


@dataclass(frozen=True)
class HashedFile:
    """A file, by name and content."""

    file: str
    sha256: str


@dataclass(frozen=True)
class ProbeSource:
    """A file that was read. items: number that it added. left_out: number of rows by reason.

    beside: the file that its items are of as well, for probes with two.
    """

    probe: str
    file: str
    sha256: str
    items: int
    left_out: Mapping[str, int]
    beside: HashedFile | None = None


@dataclass(frozen=True)
class PassedBy:
    """A file of a folder that is of no probe, and why."""

    file: str
    why: str


@dataclass(frozen=True)
class ProbeSet:
    """Items by probe, the files that they are from, and the files that were passed by."""

    items: Mapping[str, Sequence[ProbeItem]]
    sources: tuple[ProbeSource, ...]
    passed_by: tuple[PassedBy, ...]


def read_probes(paths: Sequence[str | os.PathLike[str]], most: int | None = None) -> ProbeSet:
    """Read the probes of files, and of folders with all that lies below them.

    most: items of each probe at most, see :func:`sampled`. A file of a folder that is none of the
    probes is passed by, and listed. Raises UsageError for a file that is named and is none, for a
    folder without any, and for damaged files.
    """
    items: dict[str, dict[str, ProbeItem]] = {}
    sources: list[ProbeSource] = []
    passed: list[PassedBy] = []
    for path in paths:
        known, others = _looked(Path(path))
        passed += others
        for file, name in known:
            loaded = PROBES[name].load(file)
            mine = items.setdefault(name, {})
            before = len(mine)
            kept = _askable(loaded)
            for item in kept:
                mine.setdefault(item.key, item)
            doubles = len(kept) - (len(mine) - before)
            if doubles:
                loaded.skip("items that another file has", doubles)
            if sum(map(len, items.values())) > MOST_ITEMS:
                expected = f"at most {MOST_ITEMS:,}"
                raise UsageError(explain("too many items", file=file, expected=expected))
            along = read_along(file, name)
            sources.append(
                ProbeSource(
                    name,
                    writable(file.name),
                    file_hash(file),
                    len(mine) - before,
                    loaded.left_out,
                    HashedFile(writable(along.name), file_hash(along)) if along else None,
                )
            )
    chosen = {name: sampled(list(mine.values()), most) for name, mine in items.items() if mine}
    if not chosen:
        raise UsageError(explain("no probe has an item", got=f"{len(sources)} files without any"))
    return ProbeSet(chosen, tuple(sources), tuple(passed))


def _looked(path: Path) -> tuple[list[tuple[Path, str]], list[PassedBy]]:
    """Return ((file, probe) of a path, rows of the files that are passed by)."""
    if not path.is_dir():
        if not path.is_file():
            raise UsageError(explain("no such file or folder", file=path))
        one = look(path)
        if one.probe is None:
            raise one.refusal()
        return [(path, one.probe)], []
    places = list(_walk(path))
    looked = [look(place) for place, why in places if not why]
    known = [(x.file, x.probe) for x in looked if x.probe is not None]
    along = {read_along(*one) for one in known}
    others = [(place, why) for place, why in places if why]
    others += [(x.file, x.why) for x in looked if x.probe is None and x.file not in along]
    # Those that cannot be read first: they may be meant to be a probe's.
    passed = [
        PassedBy(writable(place.relative_to(path).as_posix()), why)
        for place, why in sorted(others, key=lambda x: x[1] == NO_PROBE)
    ]
    if not known:
        named = ", ".join(f"{x.file} ({x.why})" for x in passed[:_NAMED])
        further = len(passed) - _NAMED
        raise UsageError(
            explain(
                "no probe lies there",
                file=path,
                got=(named or "no files") + (f" and {further:,} further" if further > 0 else ""),
                expected=f"the files of {', '.join(PROBES)}, as their repositories have them",
                do="See docs/howto/fairness.md",
            )
        )
    return known, passed


def _askable(loaded: Loaded) -> list[ProbeItem]:
    """Return the items that a model can be asked; the others are counted as left out."""
    kept = []
    for item in loaded.items:
        texts = [(side.prompt, side.text) for side in item.sides]
        if not all(text.strip() for _, text in texts):
            loaded.skip("sides without a text")
        elif len(set(texts)) < len(texts):
            loaded.skip("sides that are alike")
        elif max(len(prompt) + len(text) for prompt, text in texts) > _MOST_TEXT:
            loaded.skip(f"over {_MOST_TEXT:,} characters")
        else:
            kept.append(item)
    return kept


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield each path below a folder, and the reason to skip it ("" for none), by name.

    Hidden folders are left out.
    """
    count, closed = 0, list[OSError]()
    for place, folders, files in os.walk(folder, onerror=closed.append):
        here = Path(place)
        folders[:] = sorted(x for x in folders if not x.startswith("."))
        for name in folders:
            if (here / name).is_symlink():
                yield here / name, "a link"
            elif len(here.relative_to(folder).parts) >= _DEPTH:
                yield here / name, f"more than {_DEPTH} folders deep"
        if len(here.relative_to(folder).parts) >= _DEPTH:
            folders.clear()
        for name in sorted(files):
            count += 1
            if count > _MOST_FILES:
                do = "Name the folder of the probe's data itself"
                raise UsageError(explain("too many files", file=folder, do=do))
            yield here / name, "a link" if (here / name).is_symlink() else ""
    for error in closed:
        yield Path(error.filename), f"cannot be read: {error.strerror}"
