"""Contents of folders on this machine or in a store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from hydraopt.errors import NotThereError, UsageError, explain
from hydraopt.files.answers import Entry
from hydraopt.files.stores import patiently, store_of
from hydraopt.files.url import AnyPath, Url

__all__ = [
    "ALL_FILES",
    "check_empty",
    "entry_of",
    "files_in",
    "is_folder",
    "is_there",
    "lock_name",
    "remove_file",
]

ALL_FILES: Final = "tasks"
"""Name for the lock of all files in a folder; several cores in one folder share this lock."""


def lock_name(name: str) -> str:
    """Return the name of the lock beside a file or folder, see hydraopt.files.lock."""
    return f".{name}.lock"


def is_folder(place: AnyPath) -> bool:
    """Return True if the place is a folder.

    A path is one if the folder exists. An address is one if it ends in a slash or is not an object;
    over HTTP only the slash counts.
    """
    if isinstance(place, Path):
        return place.is_dir()
    if place.is_folder or not place.name:
        return True
    return not place.is_web and not is_there(place)


def is_there(place: AnyPath) -> bool:
    """Return True if a file or object of that name exists.

    Raises RemoteError if that cannot be determined.
    """
    if isinstance(place, Path):
        return place.is_file()
    try:
        patiently(lambda: store_of(place).mark(place), place)
    except NotThereError:
        return False
    return True


def files_in(folder: AnyPath) -> list[Entry] | None:
    """Return the files and folders in it, by name; None for a folder over HTTP that lists nothing.

    Files that vanish during the listing are left out; a link to nothing has neither size nor mark.
    Raises OSError.
    """
    if isinstance(folder, Url):
        url = folder
        entries = patiently(lambda: store_of(url).entries(url), url)
        return None if entries is None else sorted(entries, key=lambda x: x.name)
    with os.scandir(folder) as inside:
        entries = [x for at in inside if (x := _listed(at)) is not None]
    return sorted(entries, key=lambda x: x.name)


def check_empty(folder: AnyPath, do: str) -> None:
    """Raise UsageError for a folder that holds anything but the lock of an ended writer.

    do: what to do instead of writing there. A folder over HTTP that lists nothing has not answered
    and counts as not empty. Raises OSError.
    """
    inside = files_in(folder)
    if inside is None or any(x.name != lock_name(ALL_FILES) for x in inside):
        raise UsageError(explain("the folder is not empty", file=folder, do=do))


def _listed(at: os.DirEntry[str]) -> Entry | None:
    """Return the entry of an item in a local folder; None if it is gone.

    Locks and unfinished files come and go while others read.
    """
    if at.is_dir():
        return Entry(at.name, True)
    try:
        return _entry(at.name, at.stat())
    except FileNotFoundError:
        return Entry(at.name, False) if at.is_symlink() else None


def entry_of(place: AnyPath) -> Entry:
    """Return the entry of one file, as a listing would state it. Raises OSError, RemoteError."""
    if isinstance(place, Path):
        return _entry(place.name, place.stat())
    mark = patiently(lambda: store_of(place).mark(place), place)
    return Entry(place.name, False, mark.size, mark.tag)


def _entry(name: str, status: os.stat_result) -> Entry:
    return Entry(name, False, status.st_size, str(status.st_mtime_ns))


def remove_file(place: AnyPath) -> None:
    """Delete a file; an object that is gone already counts as deleted. Raises OSError."""
    if isinstance(place, Path):
        place.unlink()
    else:
        patiently(lambda: store_of(place).remove(place), place)
