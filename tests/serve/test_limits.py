"""What a connection may take: time for head and body, a place among others, a host of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hydraopt.serve import Limits, limited
from tests.marks import slow
from tests.serve.conftest import plain, until
from tests.serve.test_server import complete

QUICK = limited(connections=40, head=0.25, body=0.35)
START = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
HEAD = START + b"content-type: application/json\r\ncontent-length: 500\r\n\r\n"
BODY = json.dumps({"model": "de", "prompt": "x", "max_tokens": 2, "temperature": 0}).encode()
WHOLE = START + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY


def connect(running: Any) -> socket.socket:
    host, port = running.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def rest_of(connection: socket.socket) -> bytes:
    """All that comes until it is closed; or reset, where we sent more after it was."""
    parts = []
    with suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


@pytest.fixture(scope="module")
def quick(serve: Any) -> Any:
    with serve(protocol=QUICK) as running:
        yield running
        assert complete(running.client(max_retries=3), "de").choices


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "what"),
    [
        slow(b"", b"headers"),
        slow(b"POST /v1/comp", b"headers"),
        (START, b"headers"),
        slow(HEAD, b"body"),
        (HEAD + b'{"model": ', b"body"),
        (HEAD.replace(b"POST", b"PUT"), None),
        (HEAD.replace(b"/v1/completions", b"/nowhere"), None),
    ],
)
def test_what_comes_by_half_is_closed_in_time(quick, sent, what) -> None:
    with connect(quick) as connection:
        started = time.monotonic()
        connection.sendall(sent)
        said = rest_of(connection)
        assert time.monotonic() - started < 3
    if what is None:  # refused for the path, without its body
        assert b" 40" in said.split(b"\r\n")[0]
    else:
        assert said.startswith(b"HTTP/1.1 408 ")
        error = json.loads(said.partition(b"\r\n\r\n")[2])["error"]
        assert what.decode() in error["message"]
        assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.slow
@pytest.mark.parametrize("start", [START + b"x-", HEAD, WHOLE])
def test_drops_do_not_buy_time(quick, start) -> None:
    """A byte now and then, within every pause that is allowed, also after an answer."""
    with connect(quick) as connection:
        started = time.monotonic()
        connection.sendall(start)
        with suppress(OSError):  # closed, or reset
            while time.monotonic() - started < 5:
                connection.sendall(b"G")
                time.sleep(0.05)
        assert time.monotonic() - started < 3


def test_many_half_bodies_are_all_closed_and_others_answered(quick) -> None:
    halves = [connect(quick) for _ in range(30)]
    for connection in halves:
        connection.sendall(HEAD + b'{"mod')
    assert complete(quick.client(max_retries=3), "de").choices
    for connection in halves:
        with connection:
            assert b" 408 " in rest_of(connection)
    until(lambda: len(quick.server.server_state.connections) < 5)


def test_one_connection_too_many_is_503_and_many_too_many_are_closed(serve) -> None:
    with serve(protocol=limited(connections=4)) as running:
        held = [connect(running) for _ in range(4)]
        until(lambda: len(running.server.server_state.connections) == 4)
        reply = plain(f"{running.address}/health")
        assert reply.status == 503
        assert reply.json()["error"]["code"] == "too_many_connections"
        more = [connect(running) for _ in range(8)]
        closed = 0
        for connection in more[4:]:
            connection.settimeout(5)  # half of what a head may take
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""
            closed += 1
        assert closed == 4
        for connection in (*held, *more):
            connection.close()
        until(lambda: not running.server.server_state.connections)
        assert plain(f"{running.address}/health").status == 200


def asked_as(running: Any, host: str) -> tuple[int, Any]:
    with connect(running) as connection:
        head = f"GET /v1/models HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
        connection.sendall(head.encode())
        head, _, body = rest_of(connection).decode().partition("\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def test_another_host_is_refused(serve) -> None:
    with serve(hosts=["models.example.org"]) as running:
        for host in ("localhost", "LocalHost:99", "127.0.0.1:8000", "127.9.9.9", "[::1]:8000",
                     "models.example.org"):  # fmt: skip
            assert asked_as(running, host)[0] == 200, host
        for host in ("evil.example", "localhost.evil.example:8000", "192.168.0.1", "127.0.0.1.x",
                     "", "[::2]:80", "evil@localhost"):  # fmt: skip
            status, body = asked_as(running, host)
            assert status == 421, host
            assert body["error"]["code"] == "wrong_host"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_bearer_in_any_case(serve, scheme) -> None:
    with serve(api_key="secret") as running:
        for key, status in (("secret", 200), ("Secret", 401), ("", 401)):
            with connect(running) as connection:
                head = "GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
                connection.sendall(f"{head}authorization: {scheme} {key}\r\n\r\n".encode())
                assert f" {status} ".encode() in rest_of(connection).split(b"\r\n")[0]


def test_what_is_no_http_is_refused_in_the_same_shape(quick) -> None:
    with connect(quick) as connection:
        connection.sendall(b"\x16\x03\x01 what\r\n\r\n")
        said = rest_of(connection)
    assert said.startswith(b"HTTP/1.1 400 ")
    assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_request"


@pytest.mark.slow
def test_a_signal_ends_it_in_time_whatever_hangs(wild, bundle_of, tmp_path: Path) -> None:
    for part in wild:
        part.save_pretrained(tmp_path / "base")
    # A step that takes for ever, as one of a very large model might.
    code = (
        "import time; from hydraopt.serve.engine import ModelEngine\n"
        "ModelEngine._step = lambda self: time.sleep(10**6)\n"
        "from hydraopt.serve import server; server._DRAIN_SECONDS = 1; server._CLOSE_SECONDS = 2\n"
        "server._END_SECONDS = 6\n"
        "from hydraopt.cli.main import main; main()"
    )
    few = ["--answer-tokens", "99", "--prompt-tokens", "99", "--threads", "1", "--port", "0"]
    command = [sys.executable, "-c", code, "serve", str(tmp_path / "base"), str(bundle_of("all"))]
    process = subprocess.Popen(
        [*command, *few, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            line = process.stdout.readline()
            assert line, "the server did not start"
            text += line
        port = int(json.loads(text)["address"].split(":")[-1].partition("/")[0])
        half, whole = (socket.create_connection(("127.0.0.1", port)) for _ in range(2))
        half.sendall(HEAD + b"{")
        whole.sendall(WHOLE)
        time.sleep(1)
        os.kill(process.pid, signal.SIGTERM)
        started = time.monotonic()
        process.wait(20)
        assert time.monotonic() - started < 9
        half.close()
        whole.close()
    finally:
        process.kill()
        process.communicate()


def test_who_asks_for_no_number_gets_what_there_is(serve) -> None:
    body = json.dumps({"model": "de", "prompt": "go", "temperature": 0}).encode()
    with serve(Limits(prompt_tokens=100, answer_tokens=8)) as running:
        reply = plain(f"{running.address}/v1/completions", body)
        assert reply.status == 200, reply.text
        assert json.loads(reply.text)["usage"]["completion_tokens"] <= 8
