"""Limits per connection, and the host names that a connection may ask for.

uvicorn limits only the time between two requests. Here a head, a body and a reader that does not
read have limits too, whatever path is asked for, and so has the number of connections.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Iterable
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from hydraopt.serve.messages import ApiError

HEAD_SECONDS: Final = 10.0
"""Seconds from the connection, or an answer's end, to the end of the next request's headers."""
BODY_SECONDS: Final = 20.0
"""Seconds from the end of the headers to that of the body, and for a client to read a full buffer.
"""
IDLE_SECONDS: Final = 5
"""Seconds between two requests, if nothing comes."""
CLOSING_SECONDS: Final = 3.0
"""Seconds to finish receiving a request that had begun, once the server is ending."""
CONNECTIONS: Final = 512
"""Maximum connections at a time.

One more is answered 503, and closed unread beyond twice as many.
"""


def limited(
    connections: int = CONNECTIONS, head: float = HEAD_SECONDS, body: float = BODY_SECONDS
) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with limits: of connections, and of seconds as above."""

    class Limited(_Limited):
        most, head_seconds, body_seconds = connections, head, body

    return Limited


class _Limited(H11Protocol):
    most: int
    head_seconds: float
    body_seconds: float
    _phase = ""
    _timer: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    # uvicorn and asyncio call these.

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        held = len(self.connections)
        if held > 2 * self.most:
            transport.abort()
        elif held > self.most:
            self.app = _busy
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        super().shutdown()
        if self._phase == "body" and not self.transport.is_closing():
            self._end_timer()
            seconds = min(CLOSING_SECONDS, self.body_seconds)
            self._timer = self.loop.call_later(seconds, self._too_slow)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self.body_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(ApiError(400, msg.rstrip("."), "invalid_request"))

    # What is waited for, and until when.

    def _watch(self) -> None:
        """Set the time for what the client has to send now; bytes alone do not give it more."""
        phase = {h11.IDLE: "head", h11.SEND_BODY: "body"}.get(self.conn.their_state, "")
        if phase == self._phase:
            return
        self._end_timer()
        self._phase = phase
        if phase and not self.transport.is_closing():
            seconds = self.head_seconds if phase == "head" else self.body_seconds
            self._timer = self.loop.call_later(seconds, self._too_slow)

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        what = "body" if self._phase == "body" else "headers"
        seconds = self.body_seconds if self._phase == "body" else self.head_seconds
        self._refuse(ApiError(408, f"the {what} did not come within {seconds:g} s", "timeout"))

    def _refuse(self, error: ApiError) -> None:
        """Send the error unless an answer has begun, and close the connection."""
        if self.cycle is not None and not self.cycle.response_complete:
            # Whoever reads the body sees that nobody is there any more.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        unsaid = self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE)
        if unsaid and not self.transport.is_closing():
            # Past h11, whose state this ends.
            self.transport.write(_in_full(error))
        self.transport.close()
        # A client that does not read would keep what was said from being sent, and this open.
        self.loop.call_later(1.0, self.transport.abort)


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class OwnHosts:
    """Application that refuses requests for hosts other than this machine's own.

    A page in a browser may have its name point to this machine, and then read what is here; the
    Host header still has that name. names: others that may be asked for, as of a proxy.
    """

    def __init__(self, app: Any, names: Iterable[str] = ()) -> None:
        self._app, self._names = app, frozenset(x.lower() for x in names)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and not all(
            self._own(value.decode("latin-1")) for key, value in scope["headers"] if key == b"host"
        ):
            refusal = ApiError(421, "the Host header names another host", "wrong_host")
            await _send(send, refusal)
            return
        await self._app(scope, receive, send)

    def _own(self, host: str) -> bool:
        name = host.strip().lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        return is_loopback(name) or name in self._names


async def _busy(scope: Any, receive: Any, send: Any) -> None:
    await _send(
        send, ApiError(503, "too many connections; try again later", "too_many_connections")
    )


async def _send(send: Any, error: ApiError) -> None:
    body = json.dumps(error.body).encode()
    headers = _headers(error, body)
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _in_full(error: ApiError) -> bytes:
    body = json.dumps(error.body).encode()
    lines = [b"HTTP/1.1 %d %s" % (error.status, b"Refused")]
    lines += [b"%s: %s" % header for header in _headers(error, body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _headers(error: ApiError, body: bytes) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
        *((key.lower().encode(), value.encode()) for key, value in error.headers.items()),
    ]
