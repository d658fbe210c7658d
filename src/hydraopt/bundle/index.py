"""Index of a folder of core and tasks: the rows of all tasks in one small file.

Everything in it follows from the task files. It is used only for files that are unchanged according
to a listing of the folder. So a folder whose index is old, damaged or gone is the same bundle, and
only takes longer to open. docs/reference/format.md is the normative text.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from hydraopt.adapters import check_name
from hydraopt.bundle import encoding as strictjson
from hydraopt.bundle.contents import Container
from hydraopt.bundle.encoding import INDEX, check, deflate
from hydraopt.bundle.limits import naming
from hydraopt.bundle.manifest import MAX_TASKS, ROW_DEFAULTS, TaskRow
from hydraopt.bundle.writer import PackedBundle
from hydraopt.codec import VERSION
from hydraopt.errors import BundleFormatError, NotThereError, RemoteError, UsageError, explain
from hydraopt.files import (
    CORE_SUFFIX,
    INDEX_NAME,
    TASK_SUFFIX,
    AnyPath,
    Entry,
    Url,
    entry_of,
    remove_file,
)
from hydraopt.notes import Note

FREE: Final = 1 << 20
EACH: Final = 2048
"""Maximum bytes of an index, and of its JSON: a fixed number, and a number for each task file."""
_LONGEST: Final = 200
_MOST_UNLISTED: Final = 64 << 20
"""Maximum bytes of an index, and of its JSON, where the number of task files is unknown."""
_LEVEL: Final = 6
"""Compression level of zlib; every change rewrites the index."""
_SETTLED: Final = 20_000_000
"""Nanoseconds after which a file that is written again gets another time."""
_MOST_SIZE: Final = 1 << 50
_FILE_DEFAULTS: Final[Mapping[str, Any]] = {
    "size": 0, "mark": None, "md5": "", "name": None, **ROW_DEFAULTS,
}  # fmt: skip


@dataclass(frozen=True)
class IndexedFile:
    """Task file, as it was when the index was written.

    file: its name.
    size: its bytes.
    task: the name of its task.
    mark: see hydraopt.files.addresses.Entry.
    md5: MD5 of its bytes, in hex, which is the tag of a small object in S3; "" if the whole file
    was never read.
    row_values: the task's row, or its JSON values, unchecked.
    """

    file: str
    size: int
    task: str
    row_values: TaskRow | Mapping[str, Any]
    mark: str | None = None
    md5: str = ""

    @cached_property
    def row(self) -> TaskRow:
        """Row of the task. Raises BundleFormatError if it is invalid."""
        if isinstance(self.row_values, TaskRow):
            return self.row_values
        return TaskRow.from_json(self.row_values)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values."""
        row = self.row_values.to_json() if isinstance(self.row_values, TaskRow) else self.row_values
        name = None if self.file == f"{self.task}{TASK_SUFFIX}" else self.task
        own = {"file": self.file, "size": self.size, "mark": self.mark, "md5": self.md5}
        return {**row, **own, "name": name}


@dataclass(frozen=True)
class FolderIndex:
    """Contents of an index file.

    core: name of the core file.
    core_id: id by which its task files refer to the core.
    files: indexed files, by name.
    mark: mark of the index itself; None if no listing has reported it.
    size: bytes of the index.
    """

    core: str
    core_id: str
    files: Mapping[str, IndexedFile]
    mark: str | None
    size: int


def as_indexed(stored: IndexedFile, now: Entry, index: FolderIndex, here: bool) -> bool:
    """Return True if the listing shows that a task file is unchanged since it was indexed.

    here: True for a file on this machine, where the mark is a time. A file as recent as the index
    proves nothing: it may have changed once more in the same moment.
    """
    if now.size != stored.size or now.mark is None:
        return False
    if here:
        return now.mark == stored.mark and index.mark is not None and _later(index.mark, now.mark)
    return now.mark == stored.mark or (stored.md5 != "" and now.mark.strip('"') == stored.md5)


def _later(one: str, other: str) -> bool:
    return one.isdecimal() and other.isdecimal() and int(one) > int(other)


def read_index(folder: AnyPath, entries: Sequence[Entry] | None) -> FolderIndex | None:
    """Read the index of a folder; return None if it has no usable one.

    entries: listing of the folder; None if there is none.

    Raises RemoteError for a store that does not answer.
    """
    size, mark = None, None
    if entries is not None:
        own = [x for x in entries if x.name == INDEX_NAME and not x.is_folder]
        if not own:
            return None
        size, mark = own[0].size, own[0].mark
    most = _MOST_UNLISTED if entries is None else FREE + EACH * len(entries)
    if size is not None and size > most:
        return None
    try:
        file = Container(folder / INDEX_NAME, (INDEX,))
        if file.size > most:
            return None
        name, files = _read(file, most)
    except (BundleFormatError, NotThereError):
        # Nothing is lost with it: the files say the same.
        return None
    except RemoteError:
        if entries is None:  # Some servers deny what is not there.
            return None
        raise
    return FolderIndex(name, file.metadata["core"], files, mark, file.size)


def _read(file: Container, most: int) -> tuple[str, dict[str, IndexedFile]]:
    value = file.manifest(most)
    with naming(file.path):
        right = (
            isinstance(value, dict)
            and {"core", "files"} <= value.keys()
            and not strictjson.unknown_names(value, ("core", "files"))
        )
        check(right, "keys of an index")
        assert isinstance(value, dict)  # for mypy
        about = {"format": INDEX, "format_version": str(file.version)}
        file.check(["manifest"], {**about, "core": file.metadata.get("core", "")})
        name = value["core"]
        right = isinstance(name, str) and name.endswith(CORE_SUFFIX) and _is_plain(name)
        check(right, "core of an index", name, f"NAME{CORE_SUFFIX}")
        rows = strictjson.unpack_columns(
            value["files"], "file", _FILE_DEFAULTS, "files of an index", MAX_TASKS
        )
        _check_columns(rows)
        files = {}
        for row in rows:
            if row["name"] is None:
                row["name"] = row["file"].removesuffix(TASK_SUFFIX)
            own = (row.pop(key) for key in ("mark", "md5"))
            named = row.pop("file")
            files[named] = IndexedFile(named, row.pop("size"), row["name"], row, *own)
        check(len(files) == len(rows), "a file is listed twice")
        try:
            for one in files.values():
                check_name(one.task)
        except UsageError as error:
            strictjson.bad(f"task name: {error}")
    return name, files


def _check_columns(rows: Sequence[Mapping[str, Any]]) -> None:
    """Check the columns that every file needs before its row is read."""
    for row in rows:
        file, size, mark, name = row["file"], row["size"], row["mark"], row["name"]
        right = type(file) is str and file.endswith(TASK_SUFFIX) and _is_plain(file)
        check(right, "file of an index", file, f"NAME{TASK_SUFFIX}")
        check(type(size) is int and 0 <= size <= _MOST_SIZE, "size in an index", size)
        for text in (mark, row["md5"], name):
            check(text is None or (type(text) is str and len(text) <= _LONGEST), "text", text)


def write_index(folder: AnyPath, core: tuple[str, str], files: Iterable[IndexedFile]) -> int:
    """Write the index of a folder atomically and return its size in bytes.

    core: the name of the core file, and its id.

    Raises OSError, RemoteError.
    """
    kept = list(files)
    packed = packed_index(core, kept)
    if not isinstance(folder, Url):
        _settle(kept)
    return packed.write(folder / INDEX_NAME)


def packed_index(core: tuple[str, str], files: Iterable[IndexedFile]) -> PackedBundle:
    """Build an index, without files whose names are no valid text; those are read instead.

    core: as for :func:`write_index`.
    """
    kept = (one for one in files if _as_text(one.file) == one.file)
    rows = [one.to_json() for one in sorted(kept, key=lambda x: x.file)]
    value = {
        "core": _as_text(core[0]),
        "files": strictjson.pack_columns(rows, "file", _FILE_DEFAULTS),
    }
    about = {"format": INDEX, "format_version": str(VERSION), "core": core[1]}
    data = deflate(strictjson.dumps(value).encode(), _LEVEL)
    return PackedBundle(about, ["manifest"], [data], has_library=False)


def renewed_index(
    folder: AnyPath, core: tuple[str, str], files: Iterable[IndexedFile]
) -> Note | None:
    """Write the index of a folder whose files changed; return a note if that is impossible.

    The task files state the same facts, so nothing is lost without an index. The old index is
    removed, because a reader of a folder that cannot be listed would rely on it.
    """
    try:
        write_index(folder, core, files)
    except OSError as error:
        reason = str(error) if isinstance(error, RemoteError) else error.strerror or str(error)
    else:
        return None
    code = "no_index"
    do = "All tasks are there; until the next change writes it, opening reads every task file"
    try:
        remove_file(folder / INDEX_NAME)
    except FileNotFoundError:
        pass
    except OSError:
        code = "old_index"
        do = f"All tasks are there; delete {INDEX_NAME}, which is old or in the way"
    what = "the index of the folder could not be written"
    place = folder / INDEX_NAME
    return Note(code, str(explain(what, file=place, got=reason, do=do)), str(place))


def _settle(files: Iterable[IndexedFile]) -> None:
    """Wait until a file that is written now is later than these; see :func:`as_indexed`."""
    latest = max((int(x.mark) for x in files if x.mark and x.mark.isdecimal()), default=0)
    wait = min(latest + _SETTLED - time.time_ns(), _SETTLED)
    if wait > 0:
        time.sleep(wait / 1e9)


def indexed_now(
    place: AnyPath, row: TaskRow, packed: PackedBundle, library: str | None = None
) -> IndexedFile:
    """Return the entry of a task file that was just written.

    packed, library: what was written there; see :meth:`PackedBundle.write`.
    """
    md5 = hashlib.md5(usedforsecurity=False)
    for piece in packed.pieces(library):
        md5.update(piece)
    now = entry_of(place)
    return IndexedFile(place.name, now.size or 0, row.name, row, now.mark, md5.hexdigest())


def _as_text(name: str) -> str:
    """Return a file name with characters that JSON cannot encode replaced."""
    return name.encode(errors="replace").decode()


def _is_plain(name: str) -> bool:
    """Return True if ``name`` is a plain file name, not a path."""
    return not any(x in name for x in "/\\\0")
