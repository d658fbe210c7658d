"""Objects over HTTP, read by ranges that are each checked against the request.

A server may lie or be inconsistent, so every answer must state its bytes and its file (length and
ETag), and an answer that states something else is refused. No more is read than was requested.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import unquote, urljoin, urlsplit

from hydraopt.files.addresses import (
    Check,
    Entry,
    Mark,
    PassingError,
    Start,
    Url,
    check_room,
    gone,
    missing,
    refuse,
)

if TYPE_CHECKING:
    from hydraopt.files.http import HttpResponse


_LONGEST_WAIT: Final = 30.0
_PASSING: Final = {408, 425, 429, 500, 502, 503, 504}
MOST_PAGE: Final = 16 << 20
_MOST_LINKS: Final = 1 << 17
_LONGEST_LINK: Final = 4096
_DIGITS: Final = 15
"""Maximum number of digits in a number of bytes."""
_RANGE: Final = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})", re.ASCII)
_LINK: Final = re.compile(r"""<a\s[^<>]*?href\s*=\s*["']([^"'<>]+)["']""", re.IGNORECASE)
_SLASH: Final = "Check the address: that of a folder ends in a slash"
_CHANGED: Final = "Run again; whoever writes there should put whole files in place"


class WebStore:
    """Read-only store over HTTP; see hydraopt.files.stores.Store."""

    def start(self, url: Url, ahead: int, check: Check | None = None) -> Start:
        with _asked(url, {"Range": f"bytes=0-{ahead - 1}"}) as reply:
            mark = _mark_of(reply, url)
            if reply.status == 416:
                return Start(mark, b"")
            if reply.status == 200:
                return Start(mark, b"", _whole(reply, url, mark.size, check))
            first, last, size = _range_of(reply, url)
            if first != 0 or last != min(ahead, size) - 1:
                _not_asked(reply, url, f"bytes 0-{ahead - 1}")
            return Start(mark, _body(reply, url, last + 1))

    def read(self, url: Url, start: int, size: int, mark: Mark) -> bytes:
        if not size:
            return b""
        last = start + size - 1
        with _asked(url, {"Range": f"bytes={start}-{last}"}) as reply:
            if reply.status == 416:
                _changed(url, "no such range", mark)
            _check_status(reply, url)
            if reply.status != 206:
                refuse("server sent no range", url, f"status {reply.status}", "206")
            first, end, whole = _range_of(reply, url)
            now = Mark(whole, reply.header("ETag"))
            if now != mark:
                _changed(url, f"{now.size} bytes, {now.tag or 'no tag'}", mark)
            if (first, end) != (start, last):
                _not_asked(reply, url, f"bytes {start}-{last}")
            return _body(reply, url, size)

    def mark(self, url: Url) -> Mark:
        # A GET, since an address may be signed for that alone; of the body nothing is read.
        with _asked(url, {"Range": "bytes=0-0"}) as reply:
            return _mark_of(reply, url)

    def entries(self, url: Url) -> list[Entry] | None:
        folder = url.as_folder()
        with _asked(folder, {}) as reply:
            if reply.status in _PASSING:
                raise PassingError(f"status {reply.status}", _wait_of(reply))
            kind = (reply.header("Content-Type") or "").lower()
            if reply.status != 200 or not kind.startswith("text/html"):
                return None
            data = b"".join(reply.pieces(MOST_PAGE))
            if len(data) > MOST_PAGE:
                _too_long(folder, f"over {MOST_PAGE} bytes", f"{MOST_PAGE} at most")
            return _entries(data.decode("utf-8", "replace"), reply.address, folder)

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


def _asked(url: Url, headers: Mapping[str, str]) -> HttpResponse:
    """Send a GET and return the reply, a context manager whose body is not yet read."""
    try:
        from hydraopt.files.http import HttpResponse
    except ImportError as error:
        raise missing(str(error.name), url) from error
    # A range counts bytes of the file as it is, not of a packed form of it.
    reply = HttpResponse(url, {"Accept-Encoding": "identity", **headers})
    if (reply.header("Content-Encoding") or "identity").lower() != "identity":
        with reply:
            refuse("server sends another form than the file's bytes", url, do=_CHANGED)
    return reply


def _check_status(reply: HttpResponse, url: Url) -> None:
    status = reply.status
    there = unquote(urlsplit(reply.address).path)
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


def _wait_of(reply: HttpResponse) -> float:
    value = reply.header("Retry-After") or ""
    return min(float(value), _LONGEST_WAIT) if value.isascii() and value.isdecimal() else 0.0


def _range_header(reply: HttpResponse) -> str:
    return reply.header("Content-Range") or ""


def _range_of(reply: HttpResponse, url: Url) -> tuple[int, int, int]:
    """Return (first, last, length of the file) as the reply states them."""
    match = _RANGE.fullmatch(_range_header(reply))
    if match is None:
        _not_asked(reply, url, "bytes FIRST-LAST/LENGTH")
    first, last, size = map(int, match.groups())
    if not first <= last < size:
        _not_asked(reply, url, "a range within the file")
    return first, last, size


def _not_asked(reply: HttpResponse, url: Url, expected: str) -> NoReturn:
    got = _range_header(reply)[:80] or "none"
    refuse("server sent another range than was asked for", url, got, expected, "Report it there")


def _changed(url: Url, got: str, mark: Mark) -> NoReturn:
    expected = f"{mark.size} bytes, {mark.tag or 'no tag'}"
    refuse("file changed while it was read", url, got, expected, _CHANGED)


def _body(reply: HttpResponse, url: Url, size: int) -> bytes:
    """Return exactly ``size`` bytes; a body that is too short raises PassingError."""
    data = b"".join(reply.pieces(size))
    if len(data) < size:
        raise PassingError(f"a range that came short: {len(data)} bytes of {size}")
    if len(data) > size:
        refuse("server sent more than was asked for", url, f"over {size} bytes", f"{size} bytes")
    return data


def _stated(reply: HttpResponse, url: Url) -> int:
    """Return the stated length of a whole file; without it a short body could not be detected."""
    stated = reply.header("Content-Length") or ""
    if not (stated.isascii() and stated.isdecimal() and len(stated) <= _DIGITS):
        refuse("server has no ranges, and states no length", url, stated[:40], "Content-Length")
    return int(stated)


def _mark_of(reply: HttpResponse, url: Url) -> Mark:
    """Return the mark of the file that a reply is about, whatever part of it is sent."""
    tag = reply.header("ETag")
    if reply.status == 416 and _range_header(reply) == "bytes */0":
        return Mark(0, tag)
    _check_status(reply, url)
    return Mark(_range_of(reply, url)[2] if reply.status == 206 else _stated(reply, url), tag)


def _whole(reply: HttpResponse, url: Url, size: int, check: Check | None) -> Path:
    """Download the whole file from a server without ranges, as a local copy."""
    folder = tempfile.gettempdir()
    check_room(url, size, folder)
    handle, name = tempfile.mkstemp(prefix="hydraopt-", suffix=".whole", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            head = bytearray()
            for piece in reply.pieces(size):
                if check is not None:
                    head += piece
                    if check(head, size):
                        check = None
                file.write(piece)
            taken = file.tell()
        if taken < size:
            raise PassingError(f"a file that came short: {taken} bytes of {size}")
        if taken > size:
            refuse("server sent more than it said", url, f"{taken} bytes", f"{size} bytes")
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)


def _entries(page: str, at: str, folder: Url) -> list[Entry]:
    """Return the entries that a page links directly in its folder; other links are left out."""
    here = at.partition("?")[0]
    names: dict[str, Entry] = {}
    for count, link in enumerate(_LINK.finditer(page)):
        if count == _MOST_LINKS:
            _too_long(folder, f"over {_MOST_LINKS} links", f"{_MOST_LINKS} at most")
        if len(link[1]) > _LONGEST_LINK:
            continue
        try:
            there = urljoin(at, unescape(link[1])).partition("?")[0].partition("#")[0]
        except ValueError:
            continue
        name = unquote(there.removeprefix(here)) if there != at else ""
        plain = name.removesuffix("/")
        if there.startswith(here) and plain not in ("", ".", "..") and "/" not in plain:
            names[plain] = Entry(plain, name.endswith("/"))
    return list(names.values())


def _too_long(folder: Url, got: str, expected: str) -> NoReturn:
    do = "Give the address of a core file, and name the tasks that are wanted"
    refuse("list of the folder is too long", folder, got, expected, do)
