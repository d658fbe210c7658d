"""Addresses of objects in stores, and replies and refusals of stores.

It is used like a Path for files on this machine. Its text in a message has no password and no
query, because a signed address is a key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, NoReturn
from urllib.parse import quote, unquote, urlsplit

from hydraopt.errors import NotThereError, RemoteError, explain

_ADDRESS: Final = re.compile(r"([a-z][a-z0-9+.-]+)://(.*)", re.DOTALL)
_WEB: Final = ("http", "https")
_SECRET: Final = re.compile(r"[^/]*@")
"""Name and password, at the start of what follows the scheme; a password may hold an @."""
_HUB: Final = "hf"
"""Scheme of the Hugging Face hub, whose addresses hold no password: an @ starts a revision."""


class Url(os.PathLike[str]):
    """Address in a store. Two are equal if their texts are."""

    __slots__ = ("_path", "_query", "scheme")

    def __init__(self, text: str) -> None:
        match = _ADDRESS.fullmatch(text)
        if match is None:
            raise ValueError(f"not an address: {text[:80]!r}")
        self.scheme: str = match[1]
        path: str = match[2]
        cut = path.find("?") if self.is_web else -1
        self._path = path if cut < 0 else path[:cut]
        self._query = "" if cut < 0 else path[cut:]

    @property
    def is_web(self) -> bool:
        """True if the address is read over HTTP directly; such an address is read-only."""
        return self.scheme in _WEB

    @property
    def is_hub(self) -> bool:
        """True for an address on the Hugging Face hub."""
        return self.scheme == _HUB

    @property
    def is_repository(self) -> bool:
        """True for hf://OWNER/NAME, a whole model repository on the hub, also with a revision."""
        return self.is_hub and len(self.parts) == 2

    @property
    def text(self) -> str:
        """Whole address, as a store takes it; not for messages."""
        return f"{self.scheme}://{self._path}{self._query}"

    @property
    def name(self) -> str:
        """Last part of the path, "" for none; of "a/b/" it is "b"."""
        last = self._inner.rpartition("/")[2]
        return unquote(last) if self.is_web else last

    @property
    def suffix(self) -> str:
        """Suffix of the name, as for a Path."""
        return Path(self.name).suffix

    @property
    def parts(self) -> tuple[str, ...]:
        """Host or bucket, folders, name."""
        return tuple(unquote(x) if self.is_web else x for x in self._inner.split("/") if x)

    @property
    def parent(self) -> Url:
        """Parent folder, with the same query."""
        return self._with(self._inner.rpartition("/")[0])

    @property
    def is_folder(self) -> bool:
        """True if the address is written as a folder, with a slash at the end."""
        return self._path.endswith("/")

    def __truediv__(self, name: str) -> Url:
        added = quote(name, safe="~") if self.is_web else name
        return self._with(f"{self._inner}/{added}")

    def with_name(self, name: str) -> Url:
        """Return the address of that name in the same folder."""
        return self.parent / name

    def as_folder(self) -> Url:
        """Return the address written as a folder, with a slash at the end."""
        return self._with(f"{self._inner}/")

    def under(self, other: Url) -> bool:
        """Return True if the address is ``other`` or lies in it."""
        mine, theirs = f"{self._inner}/", f"{other._inner}/"
        return self.scheme == other.scheme and mine.startswith(theirs)

    @property
    def _inner(self) -> str:
        return self._path.rstrip("/")

    def _with(self, path: str) -> Url:
        return Url(f"{self.scheme}://{path}{self._query}")

    def __fspath__(self) -> str:
        return self.text

    def __str__(self) -> str:
        hidden = "?..." if self._query else ""
        secret = None if self.is_hub else _SECRET.match(self._path)
        return f"{self.scheme}://{self._path[secret.end() if secret else 0 :]}{hidden}"

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __reduce__(self) -> tuple[type[Url], tuple[str]]:
        return Url, (self.text,)


AnyPath = Path | Url
"""Location of a file or folder: on this machine, or in a store."""


def is_url(given: str | os.PathLike[str]) -> bool:
    """Return True for an address of a store; "file:///a" is a path."""
    if isinstance(given, Url):
        return True
    if isinstance(given, Path):
        return False
    match = _ADDRESS.fullmatch(os.fspath(given))
    return match is not None and match[1] != "file"


def place_of(given: str | os.PathLike[str]) -> AnyPath:
    """Convert a user's path or address to a Path or a Url."""
    if isinstance(given, Path | Url):
        return given
    text = os.fspath(given)
    if is_url(text):
        return Url(text)
    return Path(unquote(urlsplit(text).path) if text.startswith("file://") else text)


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
