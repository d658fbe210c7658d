"""One GET over HTTP with limits of time and of bytes, redirects included.

A server decides how slowly its headers and its body arrive, how long they are and where they lead.
The limits are therefore held at the socket: each read has a timeout that depends on the time left,
and the bytes are counted as they arrive, before anything parses them.
"""

from __future__ import annotations

import http.client
import io
import os
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import get_auth_from_url

from hydraopt.errors import RemoteError
from hydraopt.files.addresses import PassingError, Url, refuse

SECONDS = 120.0
"""Time limit of an answer, from the request on, while it is slower than BYTES_PER_SECOND."""
BYTES_PER_SECOND = 16 << 10
"""Rate that an answer must reach on average once it takes longer than SECONDS."""
REDIRECTS: Final = 10
_CONNECT_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 60.0
"""Time limit between two pieces of an answer."""
_PIECE: Final = 1 << 20
_HEADERS: Final = 1 << 20
"""Bytes that the headers of an answer and of its redirects may have."""

_kept = threading.local()


class _Budget:
    """Time and bytes that an answer may still take. reason: limit that was exceeded, or ""."""

    def __init__(self) -> None:
        self._begun, self._taken, self._most = time.monotonic(), 0, _HEADERS
        self.reason = ""

    def expect(self, size: int) -> None:
        """Allow a body of so many bytes, in chunks or not."""
        self._most = self._taken + size + size // 2 + _HEADERS

    def seconds(self) -> float:
        """Return the seconds left. Raises TimeoutError."""
        allowed = SECONDS + self._taken / BYTES_PER_SECOND
        left = self._begun + allowed - time.monotonic()
        if left <= 0:
            self.reason = f"{self._taken} bytes in {allowed:.0f} s"
            raise TimeoutError(self.reason)
        return left

    def take(self, count: int) -> None:
        """Count bytes that arrived. Raises OSError."""
        self._taken += count
        if self._taken > self._most:
            self.reason = f"over {self._most} bytes of headers and body"
            raise OSError(self.reason)


class _Reader(io.RawIOBase):
    """Bytes of a socket, as long as the budget lasts."""

    def __init__(self, raw: io.RawIOBase, sock: Any, budget: _Budget) -> None:
        self._raw, self._socket, self._budget = raw, sock, budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        # A little more, so that the whole limit has passed when this one has.
        self._socket.settimeout(min(self._budget.seconds() + 0.05, _PAUSE_SECONDS))
        try:
            count = self._raw.readinto(buffer)
        except TimeoutError:
            self._budget.seconds()  # raises where the whole answer is too late
            raise
        self._budget.take(count or 0)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    """Answer that is read within the budget of this thread's request."""

    def __init__(self, sock: Any, *given: Any, **named: Any) -> None:
        super().__init__(sock, *given, **named)
        reader = _Reader(self.fp.detach(), sock, _kept.budget)
        self.fp = io.BufferedReader(reader)


class _Adapter(HTTPAdapter):
    """Connections, direct or through a proxy, whose answers are read through a budget."""

    def init_poolmanager(self, *given: Any, **named: Any) -> None:
        super().init_poolmanager(*given, **named)
        _bound(self.poolmanager)

    def proxy_manager_for(self, *given: Any, **named: Any) -> urllib3.PoolManager:
        manager: urllib3.PoolManager = super().proxy_manager_for(*given, **named)
        _bound(manager)
        return manager


def _bound(manager: urllib3.PoolManager) -> None:
    pools = manager.pool_classes_by_scheme
    manager.pool_classes_by_scheme = {scheme: _bounded(pool) for scheme, pool in pools.items()}


def _bounded(pool: Any) -> Any:
    connection = pool.ConnectionCls
    if issubclass(connection.response_class, _Answer):
        return pool
    named = type("Connection", (connection,), {"response_class": _Answer})
    return type("Pool", (pool,), {"ConnectionCls": named})


class _Session(requests.Session):
    """Session that follows no redirect, because requests would read each body to its end."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class HttpResponse:
    """Answer to a GET after all redirects, its body not yet read; a context that closes it.

    url: address that the user gave. Raises RemoteError, and PassingError for what may be gone at
    the next try.
    """

    def __init__(self, url: Url, headers: Mapping[str, str]) -> None:
        self._asked = url
        self._budget = _Budget()
        try:
            self._reply = self._followed(headers)
        except RemoteError:
            raise
        except requests.exceptions.SSLError as error:
            got, do = type(error).__name__, "Check its address"
            refuse("server does not prove who it is", url, got, do=do)
        except ValueError as error:
            # Bad addresses, whoever gave them, are of this class in requests and in urllib3.
            refuse("not an address that can be read", url, type(error).__name__, do="Check it")
        except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError) as error:
            self._failed(error)

    def __enter__(self) -> HttpResponse:
        return self

    def __exit__(self, *_: object) -> None:
        self._reply.close()

    @property
    def status(self) -> int:
        return self._reply.status_code

    @property
    def address(self) -> str:
        """Address that sent the answer."""
        return str(self._reply.url)

    def header(self, name: str) -> str | None:
        value = self._reply.headers.get(name)
        return None if value is None else str(value)

    def pieces(self, most: int) -> Iterator[bytes]:
        """Yield the body in pieces: at most ``most`` bytes, and one more piece if it is longer."""
        self._budget.expect(most + _PIECE)
        taken = 0
        content = self._reply.iter_content(_PIECE)
        while taken <= most:
            try:
                piece = next(content, None)
            except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError) as error:
                self._failed(error)
            if piece is None:
                return
            yield piece
            taken += len(piece)

    def _followed(self, headers: Mapping[str, str]) -> requests.Response:
        session, address = _session(), self._asked.text
        auth: tuple[str, str] | None = get_auth_from_url(address)
        for _ in range(REDIRECTS + 1):
            _kept.budget = self._budget
            self._budget.seconds()
            reply: requests.Response = session.get(
                address,
                headers=dict(headers),
                auth=auth if auth and any(auth) else None,
                stream=True,
                timeout=(_CONNECT_SECONDS, min(_PAUSE_SECONDS, SECONDS)),
            )
            if not reply.is_redirect:
                return reply
            reply.close()  # unread
            there = urljoin(reply.url, _location(reply))
            self._check_scheme(address, there)
            if session.should_strip_auth(address, there):
                auth = None
            address = there
        refuse("server leads in a circle", self._asked, f"over {REDIRECTS} redirects")

    def _check_scheme(self, here: str, there: str) -> None:
        scheme = urlsplit(there).scheme
        if scheme not in ("http", "https"):
            refuse("server leads to an address that is not HTTP", self._asked, scheme[:40] or None)
        if here.startswith("https:") and scheme != "https":
            got = f"{scheme}://{urlsplit(there).hostname}"
            refuse("server leads from https to an address that is not", self._asked, got)

    def _failed(self, error: Exception) -> NoReturn:
        if self._budget.reason:
            got, expected = self._budget.reason, f"{BYTES_PER_SECOND} bytes a second"
            what = "server sends too slowly, or without an end"
            refuse(what, self._asked, got, expected, "Check the address, or fetch it another way")
        raise PassingError(type(error).__name__) from error


def _location(reply: requests.Response) -> str:
    """Return the address of a redirect, decoded: header fields arrive as latin-1, and are UTF-8.

    Raises ValueError.
    """
    return str(reply.headers["location"]).encode("latin-1").decode()


def _session() -> requests.Session:
    """Return the session of this thread and process, so that connections stay open."""
    if getattr(_kept, "process", None) != os.getpid():
        session = _Session()
        for scheme in ("http://", "https://"):
            session.mount(scheme, _Adapter())
        _kept.session, _kept.process = session, os.getpid()
    kept: requests.Session = _kept.session
    return kept
