"""Two stores on this machine: a web server with ranges that counts and can lie, and S3 by moto."""

from __future__ import annotations

import hashlib
import logging
import re
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import unquote

from hydraopt import open_bundle

__all__ = ["Fault", "Raw", "Web", "raw_server", "s3_server", "web_server"]

Fault = Callable[["Reply"], None]
"""What is done to an answer before it is sent."""


@dataclass
class Reply:
    """An answer. number: of the request, from 0. asked: the range, or None."""

    number: int
    path: str
    asked: tuple[int, int] | None
    status: int
    headers: dict[str, str]
    body: bytes
    cut: bool = False
    """Whether the connection ends before the length that is promised."""


@dataclass
class Web:
    """Files of a folder at ``address``.

    sent: bytes of bodies so far.  requests: their paths.  keys: their Authorization headers.
    """

    folder: Path
    address: str = ""
    ranges: bool = True
    listed: bool = False
    fault: Fault | None = None
    sent: int = 0
    requests: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"

    def reset(self) -> None:
        self.sent, self.fault = 0, None
        self.requests.clear()

    def reply(self, path: str, header: str | None) -> Reply:
        number = len(self.requests)
        self.requests.append(path)
        file = self.folder / unquote(path.partition("?")[0].lstrip("/"))
        if file.is_dir() and not path.endswith("/"):
            return Reply(number, path, None, 301, {"Location": f"{path}/"}, b"")
        if self.listed and file.is_dir():
            names = sorted(x.name + "/" * x.is_dir() for x in file.iterdir())
            page = "".join(f'<a href="{name}">{name}</a>\n' for name in names).encode()
            return Reply(number, path, None, 200, {"Content-Type": "text/html"}, page)
        if not file.is_file():
            return Reply(number, path, None, 404, {}, b"nothing here")
        data = file.read_bytes()
        headers = {"ETag": f'"{hashlib.md5(data).hexdigest()}"', "Content-Type": "x/y"}
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", header or "")
        if not self.ranges or match is None:
            return Reply(number, path, None, 200, headers, data)
        first, last = int(match[1]), min(int(match[2]), len(data) - 1)
        if first >= len(data):
            headers["Content-Range"] = f"bytes */{len(data)}"
            return Reply(number, path, (first, last), 416, headers, b"")
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return Reply(number, path, (first, last), 206, headers, data[first : last + 1])


class _Silent(ThreadingHTTPServer):
    """Says nothing of a connection that whoever asked has closed."""

    def handle_error(self, *_: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            raise


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve requests with ``handler`` in a thread, and give the address."""
    # Head and body are sent apart: with Nagle's algorithm each reply waits 40 ms for the reader.
    handler.disable_nagle_algorithm = True
    server = _Silent(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.001,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def web_server(folder: Path) -> Iterator[Web]:
    web = Web(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            web.keys.append(self.headers.get("Authorization"))
            reply = web.reply(self.path, self.headers.get("Range"))
            if web.fault is not None:
                web.fault(reply)
            self.send_response(reply.status)
            headers = {"Content-Length": str(len(reply.body)), **reply.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            web.sent += len(reply.body)  # before whoever asked can look
            with suppress(ConnectionError):  # who asks only whether it is there has gone
                self.wfile.write(reply.body)
            if reply.cut:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            return

    with serving(Handler) as web.address:
        yield web


Script = Callable[[str], Iterator[bytes]]
"""The bytes of an answer, head and all, to a request for that path and query."""


@dataclass
class Raw:
    """A server at ``address`` that sends whatever it is told. sent: bytes that the other end took,
    or that the sockets between hold. requests: their paths. ended: connections that are over."""

    address: str
    sent: int = 0
    ended: int = 0
    requests: list[str] = field(default_factory=list)


@contextmanager
def raw_server(script: Script) -> Iterator[Raw]:
    """One answer a connection, of bytes that need not be HTTP."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked = self.rfile.readline().decode("latin-1").split()
            while self.rfile.readline().strip():
                continue
            raw.requests.append(asked[1])
            with suppress(OSError):
                for piece in script(asked[1]):
                    self.request.sendall(piece)
                    raw.sent += len(piece)
            raw.ended += 1

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    raw = Raw(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.001,), daemon=True)
    thread.start()
    try:
        yield raw
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of an S3 server in this process.

    Unlike moto's own, it creates what must not exist yet once at a time: moto looks and then
    writes.
    """
    from moto.moto_server import threaded_moto_server as module
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication

    lock = threading.Lock()

    class Atomic(DomainDispatcherApplication):
        def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
            with lock if "HTTP_IF_NONE_MATCH" in environ else nullcontext():
                return super().__call__(environ, start_response)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with mock.patch.object(module, "DomainDispatcherApplication", Atomic):
        server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def same_tasks(address: Any, local: Path, names: str = "abcd") -> None:
    theirs, ours = open_bundle(address, tasks=names), open_bundle(local)
    for name in names:
        for path, factors in ours[name].factors().items():
            other = theirs[name].factors()[path]
            assert (factors.B == other.B).all()
            assert (factors.A == other.A).all()
