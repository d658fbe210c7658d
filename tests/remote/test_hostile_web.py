"""Servers that lead astray, lie about lengths, or send without an end: typed errors, within bounds.

All of them listen on this machine alone, and what they send has an end.
"""

from __future__ import annotations

import gzip
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from hydraopt import open_bundle, read_adapter
from hydraopt.cli.main import cli
from hydraopt.errors import HydraoptError, NotThereError, RemoteError
from hydraopt.files import Url, http as requesting, store_of
from tests.remote.servers import Web, raw_server

MEGABYTE = 1 << 20
LONG = 64
"""Megabytes of what nobody should read; sockets between two processes hold a few."""
FEW = 24


def head(status: int, **fields: object) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join((f"HTTP/1.1 {status} Word", *lines, "", "")).encode("latin-1")


def zeros(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield bytes(MEGABYTE)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for copies of whole files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def used(address: str) -> None:
    """A bundle is opened, an adapter is read, a folder is listed; each ends in a typed error."""
    for use in (
        lambda: open_bundle(f"{address}/x.hydra.safetensors"),
        lambda: read_adapter(f"{address}/adapter_model.safetensors"),
        lambda: open_bundle(f"{address}/x/"),
    ):
        with pytest.raises(HydraoptError):
            use()


# Redirects.


@pytest.mark.parametrize("packed", [False, True])
def test_the_body_of_a_redirect_is_not_read(packed: bool, web: Web, merged: Path) -> None:
    (web.folder / "real").write_bytes(merged.read_bytes())
    body = gzip.compress(bytes(LONG * MEGABYTE), 1)

    def lead(path: str) -> Iterator[bytes]:
        if packed:
            yield head(302, Location=web.url("real"), Content_Encoding="gzip")
            yield body
        else:
            yield head(302, Location=web.url("real"), Content_Length=LONG * MEGABYTE)
        yield from zeros(0 if packed else LONG)

    with raw_server(lead) as raw:
        bundle = open_bundle(f"{raw.address}/x")
        assert list(bundle) == list("abcd")
        requests = len(raw.requests)
    assert raw.sent < requests * FEW * MEGABYTE
    assert len(web.requests) == requests


def test_a_chain_of_redirects_ends() -> None:
    def lead(path: str) -> Iterator[bytes]:
        yield head(302, Location=f"{path}x", Content_Length=0)

    with raw_server(lead) as raw, pytest.raises(RemoteError):
        open_bundle(f"{raw.address}/x")
    assert len(raw.requests) <= requesting.REDIRECTS + 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "place",
    [
        "http://[::bad",
        "http://[::1]bad/",
        f"http://{'a' * 64}/x",
        f"http://{'a' * 64}.org/x",
        "http://a..b/x",
        "http://",
        "//",
        "http:///x",
        "http://127.0.0.1:99999/x",
        "http://127.0.0.1:port/x",
        "http://127.0.0.1:-1/x",
        "http://*.example/x",
        "http://\u00fc\u00fc/x",
        "http://\xff\xfe/x",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "s3://bucket/x",
        "javascript:0",
        "http://user:pa\u00df@[/x",
        "\x01\x02",
        "?" * 60_000,
        "http://127.0.0.1:9/x",
    ],
    ids=lambda x: repr(x)[:30],
)
def test_an_odd_place_of_a_redirect_is_a_typed_error(place: str) -> None:
    def lead(path: str) -> Iterator[bytes]:
        if path.count("?") < 50:
            yield head(302, Location=place)

    with raw_server(lead) as raw:
        used(raw.address)
        result = CliRunner().invoke(cli, ["inspect", "--list", f"{raw.address}/x"])
    assert result.exit_code == 2, result.output


@pytest.mark.parametrize(
    "address", ["http://[::bad/x", f"http://{'a' * 64}/x", "http://a..b/x", "http://h:99999/x"]
)
def test_an_odd_address_of_a_user_is_a_typed_error(address: str) -> None:
    assert CliRunner().invoke(cli, ["inspect", "--list", address]).exit_code == 2


def test_a_password_stays_with_its_server(web: Web, merged: Path) -> None:
    """As a browser does: the key of one server is not handed to another."""
    (web.folder / "real").write_bytes(merged.read_bytes())

    def lead(path: str) -> Iterator[bytes]:
        yield head(302, Location=web.url("real"), Content_Length=0)

    with raw_server(lead) as raw:
        named = raw.address.replace("http://", "http://me:secret@")
        assert list(open_bundle(f"{named}/x")) == list("abcd")
    assert set(web.keys) == {None}
    open_bundle(web.url("real").replace("http://", "http://me:secret@"))
    assert web.keys[-1] is not None


# What headers and pages say.


DIGITS = "9" * 5000


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (206, {"Content_Range": f"bytes 0-1/{DIGITS}"}),
        (206, {"Content_Range": f"bytes {DIGITS}-{DIGITS}/{DIGITS}"}),
        (206, {"Content_Range": "bytes 0-\u0664/\u0664"}),
        (416, {"Content_Range": f"bytes */{DIGITS}"}),
        (200, {"Content_Length": DIGITS}),
        (200, {"Content_Length": "-1"}),
        (200, {"Content_Length": "1, 2"}),
        (206, {"Transfer_Encoding": "chunked", "Content_Range": "bytes 0-8191/9999"}),
        (200, {"Content_Encoding": "br, gzip, x", "Content_Length": 5}),
        (302, {}),
        (999, {"Content_Length": 0}),
        (200, {"Set_Cookie": f"a=b; max-age={DIGITS}; expires={DIGITS}", "Content_Length": 3}),
    ],
)
def test_odd_headers_are_a_typed_error(status: int, fields: dict[str, object]) -> None:
    def answer(path: str) -> Iterator[bytes]:
        named = {x: str(y).encode().decode("latin-1") for x, y in fields.items()}
        yield head(status, **named)
        yield b"zzzzzz\r\n"

    with raw_server(answer) as raw:
        used(raw.address)


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"\0" * 100,
        b"HTTP/9.9 abc\r\n\r\n",
        b"HTTP/1.1 200\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nx" + b"y" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000,
        b"HTTP/1.1 200 OK\r\n: :\r\n\xff: \xff\r\nno colon\r\n\r\nxx",
    ],
    ids=range(7),
)
def test_what_is_no_answer_is_a_typed_error(start: bytes) -> None:
    with raw_server(lambda path: iter([start])) as raw:
        used(raw.address)


PAGES = {
    "brackets": '<a href="http://[bad">x</a><a href="//[">x</a>',
    "digits": f'<a href="&#{DIGITS};">x</a><a href="&#x{DIGITS};">x</a>',
    "parents": '<a href="..">x</a><a href="%2e%2e/">x</a><a href=".">x</a><a href="a%2Fb">x</a>',
    "schemes": '<a href="file:///x">x</a><a href="data:,x">x</a><a href="http://">x</a>',
}


@pytest.mark.parametrize("name", PAGES)
def test_links_that_lead_nowhere_are_left_out(name: str) -> None:
    page = (PAGES[name] + '<a href="x.core.safetensors">x</a>').encode()

    def answer(path: str) -> Iterator[bytes]:
        yield head(200, Content_Type="text/html", Content_Length=len(page)) + page

    with raw_server(answer) as raw:
        address = Url(f"{raw.address}/f/")
        assert [x.name for x in store_of(address).entries(address) or ()] == ["x.core.safetensors"]


@pytest.mark.slow
def test_a_page_of_more_links_than_a_folder_has_files_is_refused() -> None:
    """The work is bounded by the number of links, so most of them are not looked at."""
    link = b'<a href="http://x/">'
    page = link * (15 * MEGABYTE // len(link))

    def answer(path: str) -> Iterator[bytes]:
        yield head(200, Content_Type="text/html", Content_Length=len(page)) + page

    with raw_server(answer) as raw, pytest.raises(RemoteError):
        open_bundle(f"{raw.address}/f/")


# Answers that do not end.


@pytest.mark.slow
@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        head(206, Content_Range="bytes 0-999/1000", Content_Length=1000),
        head(200, Content_Length=1000),
        head(200, Content_Type="text/html"),
        head(200, Content_Type="text/html", Transfer_Encoding="chunked"),
        head(302, Location="/y", Content_Length=9) * 2,
    ],
    ids=["status", "headers", "range", "whole", "page", "chunks", "redirects"],
)
def test_a_byte_now_and_then_buys_no_time(start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes well within the time between two pieces of an answer."""
    monkeypatch.setattr(requesting, "SECONDS", 0.15)
    pause, most = 0.03, 600

    def trickle(path: str) -> Iterator[bytes]:
        yield start
        for _ in range(most):
            time.sleep(pause)
            yield b"1"

    with raw_server(trickle) as raw:
        address = f"{raw.address}/x/" if b"html" in start else f"{raw.address}/x"
        with pytest.raises(RemoteError):
            open_bundle(address)
        assert len(raw.requests) <= requesting.REDIRECTS + 1
    assert raw.sent < len(raw.requests) * (len(start) + most)


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 OK\r\n",
        head(200, Content_Type="text/html", Transfer_Encoding="chunked"),
        head(200, Content_Type="text/html", Transfer_Encoding="chunked") + b"0\r\n",
        head(200, Content_Type="text/html"),
    ],
    ids=["headers", "a chunk's length", "what follows the chunks", "a page"],
)
def test_lines_and_pages_without_an_end_are_not_taken(start: bytes) -> None:
    def endless(path: str) -> Iterator[bytes]:
        yield start
        yield from (b"1" * MEGABYTE for _ in range(2 * LONG))

    with raw_server(endless) as raw, pytest.raises(RemoteError):
        open_bundle(f"{raw.address}/x/")
    assert raw.sent < len(raw.requests) * 2 * LONG * MEGABYTE


# Lengths that are not those of what is asked for.


def header(size: int) -> bytes:
    """Of a safetensors file with a tensor of so many bytes."""
    entry = {"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    text = json.dumps(entry).encode()
    return len(text).to_bytes(8, "little") + text


STARTS = {
    "zeros": b"",
    "another length": header(1000),
    "an endless header": (99_999_999).to_bytes(8, "little"),
    "a header beyond the format": (1 << 40).to_bytes(8, "little"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("ranges", [False, True])
@pytest.mark.parametrize("of", ["x.hydra.safetensors", "adapter_model.safetensors"])
def test_a_length_that_the_file_cannot_have_is_refused_before_it_is_fetched(
    name: str, ranges: bool, of: str, temporary: Path
) -> None:
    stated = LONG * MEGABYTE

    def answer(path: str) -> Iterator[bytes]:
        if ranges:
            yield head(206, Content_Range=f"bytes 0-8191/{stated}", Content_Length=8192)
            yield STARTS[name].ljust(8192, b"\0")[:8192]
            return
        yield head(200, Content_Length=stated) + STARTS[name]
        yield from zeros(LONG)

    use = open_bundle if "hydra" in of else read_adapter
    with raw_server(answer) as raw, pytest.raises(HydraoptError):
        use(f"{raw.address}/{of}")
    if "endless" not in name:
        assert raw.sent < len(raw.requests) * FEW * MEGABYTE
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("of", ["x.hydra.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize("ranges", [False, True])
def test_a_length_beyond_the_disk_is_refused(of: str, ranges: bool, temporary: Path) -> None:
    stated = 10**15 - 1

    def answer(path: str) -> Iterator[bytes]:
        if "config" in path:
            yield head(404, Content_Length=0)
        elif ranges:
            first = header(stated - 8)[:8192]
            yield head(206, Content_Range=f"bytes 0-{16 * MEGABYTE - 1}/{stated}") + first
            yield from zeros(16)
        else:
            yield head(200, Content_Length=stated)
            yield from zeros(LONG)

    with raw_server(answer) as raw:
        with pytest.raises(HydraoptError):
            read_adapter(f"{raw.address}/{of}")
        assert raw.sent < len(raw.requests) * FEW * MEGABYTE
    assert list(temporary.iterdir()) == []


def test_a_config_beyond_what_a_config_may_have_is_refused(
    web: Web, adapters: dict[str, Path]
) -> None:
    weights = (adapters["a"] / "adapter_model.safetensors").read_bytes()

    def answer(path: str) -> Iterator[bytes]:
        if path.endswith(".safetensors"):
            yield head(200, Content_Length=len(weights)) + weights
        else:
            yield head(200, Content_Length=LONG * MEGABYTE)
            yield from zeros(LONG)

    with raw_server(answer) as raw:
        with pytest.raises(HydraoptError) as caught:
            read_adapter(f"{raw.address}/adapter_model.safetensors")
        assert not isinstance(caught.value, NotThereError)
        assert raw.sent < len(raw.requests) * FEW * MEGABYTE
