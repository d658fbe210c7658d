"""Replies and refusals of stores; see hydraopt.files.stores."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from hydraopt.errors import NotThereError, RemoteError, explain
from hydraopt.files.url import Url

__all__ = [
    "HUB_KEY", "Check", "Entry", "Mark", "PassingError", "Start", "check_room", "gone", "missing",
    "refuse",
]  # fmt: skip

HUB_KEY: Final = "Check the address; for a private or gated repository, set HF_TOKEN"
_EXTRAS: Final = {
    "fsspec": "remote", "s3fs": "remote", "requests": "remote", "urllib3": "remote",
    "huggingface_hub": "hub",
}  # fmt: skip
"""Extra of hydraopt that installs a library; others are installed by their own names."""
_ANYWHERE: Final = "Check the address; a store may also answer so to who may not read it"

Check = Callable[[bytes | bytearray, int], bool]
"""Function of an object's first bytes and its size that checks if its reader can use it.

It returns True if the bytes are enough to know that the object can be what the reader expects, and
raises an error of the reader's own kind if it cannot.
"""


class Mark(NamedTuple):
    """Mark that distinguishes an object from another at the same address.

    size: bytes.
    tag: tag given by the store; None if it has none.
    """

    size: int
    tag: str | None


class Start(NamedTuple):
    """Opened object.

    mark: see Mark.
    head: its first bytes.
    whole: a copy of all of it, where the server sends no ranges.
    """

    mark: Mark
    head: bytes
    whole: Path | None = None


class Entry(NamedTuple):
    """Entry of a folder.

    is_folder: True for a folder.
    size: bytes of a file, if known.
    mark: mark that changes with the content, if known: on this machine the time of the last change
    in nanoseconds, in a store the object's tag.
    """

    name: str
    is_folder: bool
    size: int | None = None
    mark: str | None = None


class PassingError(Exception):
    """Failure that may not occur at the next try.

    wait: seconds that the server asks to wait.
    """

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


def refuse(
    what: str, url: Url, got: object = None, expected: object = None, do: str | None = None
) -> NoReturn:
    """Raise RemoteError about an address; what is secret in it is left out of the message."""
    text = None if got is None else str(got).replace(url.text, str(url))[:300]
    raise RemoteError(explain(what, file=url, got=text, expected=expected, do=do))


def gone(url: Url, got: str | None = None, do: str | None = None) -> NotThereError:
    """Return the error for an address at which nothing is found."""
    do = do or (HUB_KEY if url.is_hub else _ANYWHERE)
    return NotThereError(explain("nothing is at the address", file=url, got=got, do=do))


def missing(library: str, url: Url) -> RemoteError:
    """Return the error for a library that an address needs and that is not installed."""
    extra = _EXTRAS.get(library)
    what = f"hydraopt[{extra}]" if extra else library
    do = f"Run: pip install '{what}'"
    return RemoteError(explain("a library is not installed", file=url, expected=library, do=do))


def check_room(url: Url, size: int, folder: str | os.PathLike[str]) -> None:
    """Raise RemoteError for an object that a folder's disk has no room for."""
    import shutil

    free = shutil.disk_usage(folder).free
    if size > free:
        do = f"Check the address, or make room in {os.fspath(folder)}"
        refuse("no room on the disk for a copy", url, f"{size} bytes", f"at most {free}", do)
