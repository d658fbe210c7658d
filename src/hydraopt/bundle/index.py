"""The index of a folder of core and tasks: the rows of all tasks in one small file.

All that it says follows from the task files, and it is believed of those alone that are as they
were: a listing of the folder tells. So a folder whose index is old, damaged or gone is the same
bundle; to open it takes longer. docs/reference/format.md is the normative text.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hydraopt.bundle import strictjson
from hydraopt.bundle.bounds import naming
from hydraopt.bundle.container import CORE_SUFFIX, INDEX, INDEX_NAME, TASK_SUFFIX, deflate
from hydraopt.bundle.opening import Container
from hydraopt.bundle.rows import ROW_DEFAULTS, TaskRow
from hydraopt.bundle.spec import MAX_TASKS
from hydraopt.bundle.strictjson import check, natural
from hydraopt.bundle.writer import PackedBundle
from hydraopt.coding.version import VERSION
from hydraopt.errors import BundleFormatError, NotThereError, RemoteError
from hydraopt.files.answers import Entry
from hydraopt.files.url import AnyPath, Url

__all__ = ["FolderIndex", "IndexedFile", "as_indexed", "md5_of", "read_index", "write_index"]

_FREE: Final = 1 << 20
_EACH: Final = 2048
"""Bytes that an index has at most: so many, and so many for each task file of the folder."""
_MOST_UNLISTED: Final = 64 << 20
"""The same where nobody knows how many there are."""
_LEVEL: Final = 6
"""Of zlib: an index is written anew with every change."""
_SETTLED: Final = 20_000_000
"""Nanoseconds after which a file that is written has another time."""
_LONGEST: Final = 200
_FILE_DEFAULTS: Final[Mapping[str, Any]] = {
    "size": 0, "mark": None, "md5": "", "name": None, **ROW_DEFAULTS,
}  # fmt: skip


@dataclass(frozen=True)
class IndexedFile:
    """A task file, as it was when the index was written.

    file: its name. size: its bytes. mark: see hydraopt.files.answers.Entry. md5: of its bytes, in
    hex, which is the tag of a small object in S3; "" if nobody has read them all. row: its task's.
    """

    file: str
    size: int
    row: TaskRow
    mark: str | None = None
    md5: str = ""

    def __post_init__(self) -> None:
        right = isinstance(self.file, str) and self.file.endswith(TASK_SUFFIX)
        check(right and _is_plain(self.file), "file of an index", self.file, f"NAME{TASK_SUFFIX}")
        natural(self.size, f"size of {self.file}", 0, 1 << 50)
        for text in (self.mark or "", self.md5):
            check(isinstance(text, str) and len(text) <= _LONGEST, f"mark of {self.file}", text)


@dataclass(frozen=True)
class FolderIndex:
    """What an index says. core: the name of the core file. files: by their names. mark: of the
    index itself; None where no listing has said it. size, fetched: its bytes, and those that came
    from a store."""

    core: str
    files: Mapping[str, IndexedFile]
    mark: str | None
    size: int
    fetched: int


def as_indexed(told: IndexedFile, now: Entry, index: FolderIndex, here: bool) -> bool:
    """Whether a task file is as the index says, by what a listing says of it now.

    here: it lies on this machine, where a time is the mark. One as late as the index proves
    nothing: the file may have changed once more in the same moment.
    """
    if now.size != told.size or now.mark is None:
        return False
    if here:
        return now.mark == told.mark and index.mark is not None and _later(index.mark, now.mark)
    return now.mark == told.mark or (told.md5 != "" and now.mark.strip('"') == told.md5)


def _later(one: str, other: str) -> bool:
    return one.isdecimal() and other.isdecimal() and int(one) > int(other)


def read_index(
    folder: AnyPath, entries: Sequence[Entry] | None, core: str | None = None
) -> FolderIndex | None:
    """The index of a folder; None if it has none that can be used.

    entries: what a listing says; None if there is no listing. core: the id of the core file that
    it must be of; None for any. Raises RemoteError for a store that does not answer.
    """
    size, mark = None, None
    if entries is not None:
        own = [x for x in entries if x.name == INDEX_NAME and not x.is_folder]
        if not own:
            return None
        size, mark = own[0].size, own[0].mark
    most = _MOST_UNLISTED if entries is None else _FREE + _EACH * len(entries)
    if size is not None and size > most:
        return None
    try:
        file = Container(folder / INDEX_NAME, (INDEX,))
        if file.size > most or (core is not None and file.metadata.get("core") != core):
            return None
        name, files = _read(file)
    except (BundleFormatError, NotThereError):
        # Nothing is lost with it: the files say the same.
        return None
    except RemoteError:
        if entries is None:  # Some servers deny what is not there.
            return None
        raise
    return FolderIndex(name, files, mark, file.size, file.fetched)


def _read(file: Container) -> tuple[str, dict[str, IndexedFile]]:
    value = file.manifest()
    with naming(file.path):
        check(isinstance(value, dict) and set(value) == {"core", "files"}, "keys of an index")
        assert isinstance(value, dict)  # for mypy
        about = {"format": INDEX, "format_version": str(file.version)}
        file.check(["manifest"], {**about, "core": file.metadata.get("core", "")})
        name = value["core"]
        right = isinstance(name, str) and name.endswith(CORE_SUFFIX) and _is_plain(name)
        check(right, "core of an index", name, f"NAME{CORE_SUFFIX}")
        rows = strictjson.unpack_columns(
            value["files"], "file", _FILE_DEFAULTS, "files of an index", MAX_TASKS
        )
        files = {}
        for row in rows:
            own = {key: row.pop(key) for key in ("file", "size", "mark", "md5")}
            if row["name"] is None:
                row["name"] = str(own["file"]).removesuffix(TASK_SUFFIX)
            files[own["file"]] = IndexedFile(row=TaskRow.from_json(row), **own)
        check(len(files) == len(rows), "a file is listed twice")
    return name, files


def write_index(folder: AnyPath, core: tuple[str, str], files: Iterable[IndexedFile]) -> int:
    """Write the index of a folder; its bytes. Atomic. Raises OSError, RemoteError.

    core: the name of the core file, and its id.
    """
    kept = sorted(files, key=lambda x: x.file)
    rows = []
    for one in kept:
        name = None if one.file == f"{one.row.name}{TASK_SUFFIX}" else one.row.name
        own = {"file": one.file, "size": one.size, "mark": one.mark, "md5": one.md5}
        rows.append({**one.row.to_json(), **own, "name": name})
    value = {"core": core[0], "files": strictjson.pack_columns(rows, "file", _FILE_DEFAULTS)}
    about = {"format": INDEX, "format_version": str(VERSION), "core": core[1]}
    data = deflate(strictjson.dumps(value).encode(), _LEVEL)
    if not isinstance(folder, Url):
        _settle(kept)
    packed = PackedBundle(about, ["manifest"], [data], has_library=False)
    return packed.write(folder / INDEX_NAME)


def _settle(files: Iterable[IndexedFile]) -> None:
    """Wait until a file that is written now is later than these; see :func:`as_indexed`."""
    latest = max((int(x.mark) for x in files if x.mark and x.mark.isdecimal()), default=0)
    wait = min(latest + _SETTLED - time.time_ns(), _SETTLED)
    if wait > 0:
        time.sleep(wait / 1e9)


def md5_of(pieces: Iterable[bytes]) -> str:
    """In hex, of some bytes, one after another."""
    digest = hashlib.md5(usedforsecurity=False)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _is_plain(name: str) -> bool:
    """Whether it is a name and no path."""
    return "/" not in name and "\\" not in name and Path(name).name == name
