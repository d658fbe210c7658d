"""Objects over HTTP: ranges, each of which is checked to be what was asked for.

A server may lie, or have several minds: every answer says which bytes it holds and of which file
(length and ETag), and one that says something else is refused. No more is taken than was asked.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import unquote, urljoin, urlsplit

from hydraopt.errors import RemoteError, explain
from hydraopt.files.answers import Entry, Mark, PassingError, Start, gone, refuse
from hydraopt.files.url import Url

if TYPE_CHECKING:
    from requests import Response, Session

__all__ = ["WebStore"]

_TIMEOUTS: Final = (10.0, 60.0)
"""Seconds to connect, and between two pieces of an answer."""
_REDIRECTS: Final = 10
_LONGEST_WAIT: Final = 30.0
_PASSING: Final = {408, 425, 429, 500, 502, 503, 504}
_PIECE: Final = 1 << 20
_MOST_PAGE: Final = 16 << 20
_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_LINK: Final = re.compile(r"""<a\s[^<>]*?href\s*=\s*["']([^"'<>]+)["']""", re.IGNORECASE)
_NAMED: Final = "Give the address of a core file, and name the tasks that are wanted"
_SLASH: Final = "Check the address: that of a folder ends in a slash"
_CHANGED: Final = "Run again; whoever writes there should put whole files in place"

_kept = threading.local()


class WebStore:
    """See hydraopt.files.stores.Store. Nothing can be written."""

    def start(self, url: Url, ahead: int) -> Start:
        with _asked(url, {"Range": f"bytes=0-{ahead - 1}"}) as reply:
            if reply.status_code == 416 and _header(reply, "range") == "bytes */0":
                return Start(Mark(0, reply.headers.get("ETag")), b"")
            _check_status(reply, url)
            if reply.status_code == 200:
                return _whole(reply, url)
            first, last, size = _range_of(reply, url)
            if first != 0 or last != min(ahead, size) - 1:
                _not_asked(reply, url, f"bytes 0-{ahead - 1}")
            head = _body(reply, url, last + 1)
            return Start(Mark(size, reply.headers.get("ETag")), head)

    def read(self, url: Url, start: int, size: int, mark: Mark) -> bytes:
        if not size:
            return b""
        last = start + size - 1
        with _asked(url, {"Range": f"bytes={start}-{last}"}) as reply:
            if reply.status_code == 416:
                _changed(url, "no such range", mark)
            _check_status(reply, url)
            if reply.status_code != 206:
                refuse("server sent no range", url, f"status {reply.status_code}", "206")
            first, end, whole = _range_of(reply, url)
            now = Mark(whole, reply.headers.get("ETag"))
            if now != mark:
                _changed(url, now, mark)
            if (first, end) != (start, last):
                _not_asked(reply, url, f"bytes {start}-{last}")
            return _body(reply, url, size)

    def mark(self, url: Url) -> Mark:
        # A GET, since an address may be signed for that alone; of the body nothing is read.
        with _asked(url, {"Range": "bytes=0-0"}) as reply:
            tag = reply.headers.get("ETag")
            if reply.status_code == 416 and _header(reply, "range") == "bytes */0":
                return Mark(0, tag)
            _check_status(reply, url)
            if reply.status_code == 206:
                return Mark(_range_of(reply, url)[2], tag)
            return Mark(_stated(reply, url), tag)

    def entries(self, url: Url) -> list[Entry] | None:
        folder = url.as_folder()
        with _asked(folder, {}) as reply:
            if reply.status_code in _PASSING:
                raise PassingError(f"status {reply.status_code}", _wait_of(reply))
            kind = reply.headers.get("Content-Type", "")
            if reply.status_code != 200 or not kind.lower().startswith("text/html"):
                return None
            data = b"".join(_pieces(reply, folder, _MOST_PAGE))
            if len(data) > _MOST_PAGE:
                got, expected = f"over {_MOST_PAGE} bytes", f"{_MOST_PAGE} at most"
                refuse("list of the folder is too long", folder, got, expected, _NAMED)
            page = data.decode("utf-8", "replace")
            at = reply.url
        names: dict[str, Entry] = {}
        for link in _LINK.findall(page):
            there = urljoin(at, unescape(link)).partition("?")[0].partition("#")[0]
            name = unquote(there.removeprefix(at.partition("?")[0])) if there != at else ""
            plain = name.removesuffix("/")
            if there.startswith(at.partition("?")[0]) and plain and "/" not in plain:
                names[plain] = Entry(plain, name.endswith("/"))
        return list(names.values())

    def matches(self, url: Url) -> list[Url]:
        refuse("a pattern has no matches over HTTP", url, do="Give the address of each adapter")

    def put(self, url: Url, data: bytes) -> None:
        self._read_only(url)

    def create(self, url: Url, data: bytes) -> bool:
        self._read_only(url)

    def remove(self, url: Url) -> None:
        self._read_only(url)

    def _read_only(self, url: Url) -> NoReturn:
        do = "Write to a store (s3://, gs://, hf://) or to a local path"
        refuse("nothing can be written over HTTP", url, do=do)


def _session() -> Session:
    """One for each thread of each process, so that connections stay open."""
    if getattr(_kept, "process", None) != os.getpid():
        try:
            import requests
        except ImportError as error:
            raise RemoteError(
                explain(
                    "addresses need a library that is not installed",
                    got=error.name,
                    do="Install it: pip install 'hydraopt[remote]'",
                )
            ) from error
        _kept.session, _kept.process = requests.Session(), os.getpid()
        _kept.session.max_redirects = _REDIRECTS
    session: Session = _kept.session
    return session


@contextmanager
def _asked(url: Url, headers: Mapping[str, str]) -> Iterator[Response]:
    """The answer to a GET, its body not yet read."""
    session = _session()
    import requests

    # A range counts bytes of the file as it is, not of a packed form of it.
    asked = {"Accept-Encoding": "identity", **headers}
    try:
        with session.get(url.text, headers=asked, stream=True, timeout=_TIMEOUTS) as reply:
            if url.scheme == "https" and not reply.url.startswith("https:"):
                refuse("server leads from https to an address that is not", url, _host(reply.url))
            if reply.headers.get("Content-Encoding", "identity").lower() != "identity":
                refuse("server sends another form than the file's bytes", url, do=_CHANGED)
            yield reply
    except requests.TooManyRedirects as error:
        refuse("server leads in a circle", url, f"over {_REDIRECTS} redirects", do=None)
        raise AssertionError from error
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
        refuse("not an address that can be read", url, type(error).__name__, do="Check it")
    except requests.exceptions.SSLError as error:
        refuse("server does not prove who it is", url, type(error).__name__, do="Check its address")
    except requests.RequestException as error:
        raise PassingError(type(error).__name__) from error


def _host(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.hostname}"


def _header(reply: Response, name: str) -> str:
    return str(reply.headers.get(f"Content-{name.capitalize()}", ""))


def _check_status(reply: Response, url: Url) -> None:
    status = reply.status_code
    there = unquote(urlsplit(reply.url).path)
    if there.endswith(f"/{url.name}/") and not url.is_folder:
        # Servers lead to the slash, and send a page about the folder, or that there is none.
        raise gone(url, "a folder", _SLASH)
    if status in (200, 206):
        return
    if status in (404, 410):
        raise gone(url, f"status {status}", *([] if url.suffix else [_SLASH]))
    if status in (401, 403):
        do = "Check what gives you access: an address that is signed anew, a token, .netrc"
        refuse("server denies access", url, f"status {status}", do=do)
    if status in _PASSING:
        raise PassingError(f"status {status}", _wait_of(reply))
    refuse("server does not send it", url, f"status {status}", "200 or 206", "Check the address")


def _wait_of(reply: Response) -> float:
    said = reply.headers.get("Retry-After", "")
    return min(float(said), _LONGEST_WAIT) if said.isascii() and said.isdecimal() else 0.0


def _range_of(reply: Response, url: Url) -> tuple[int, int, int]:
    """(first, last, length of the file) as the answer says it."""
    match = _RANGE.fullmatch(_header(reply, "range"))
    if match is None:
        _not_asked(reply, url, "bytes FIRST-LAST/LENGTH")
    first, last, size = map(int, match.groups())
    if not first <= last < size:
        _not_asked(reply, url, "a range within the file")
    return first, last, size


def _not_asked(reply: Response, url: Url, expected: str) -> NoReturn:
    got = _header(reply, "range")[:80] or "none"
    refuse("server sent another range than was asked for", url, got, expected, "Report it there")


def _changed(url: Url, got: object, mark: Mark) -> NoReturn:
    if isinstance(got, Mark):
        got = f"{got.size} bytes, {got.tag or 'no tag'}"
    expected = f"{mark.size} bytes, {mark.tag or 'no tag'}"
    refuse("file changed while it was read", url, got, expected, _CHANGED)


def _pieces(reply: Response, url: Url, most: int) -> Iterator[bytes]:
    """The body in pieces, at most so many bytes and one piece more."""
    taken = 0
    for piece in reply.iter_content(_PIECE):
        yield piece
        taken += len(piece)
        if taken > most:
            return


def _body(reply: Response, url: Url, size: int) -> bytes:
    """Exactly ``size`` bytes; what comes short may pass."""
    data = b"".join(_pieces(reply, url, size))
    if len(data) < size:
        raise PassingError(f"a range that came short: {len(data)} bytes of {size}")
    if len(data) > size:
        refuse("server sent more than was asked for", url, f"over {size} bytes", f"{size} bytes")
    return data


def _stated(reply: Response, url: Url) -> int:
    """The length of a whole file. Without one nobody knows whether it came short."""
    stated = str(reply.headers.get("Content-Length", ""))
    if not (stated.isascii() and stated.isdecimal() and len(stated) < 16):
        refuse("server has no ranges, and states no length", url, stated[:40], "Content-Length")
    return int(stated)


def _whole(reply: Response, url: Url) -> Start:
    """Of a server without ranges: all of the file, as a local copy."""
    size = _stated(reply, url)
    handle, name = tempfile.mkstemp(prefix="hydraopt-", suffix=".whole")
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in _pieces(reply, url, size):
                file.write(piece)
            taken = file.tell()
        if taken < size:
            raise PassingError(f"a file that came short: {taken} bytes of {size}")
        if taken > size:
            refuse("server sent more than it said", url, f"{taken} bytes", f"{size} bytes")
    except BaseException:
        os.unlink(name)
        raise
    return Start(Mark(taken, reply.headers.get("ETag")), b"", Path(name))
