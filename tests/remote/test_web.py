"""Ranges over HTTP: what is right comes through, and every way to lie is an error that says so."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from hydraopt import open_bundle
from hydraopt.errors import (
    ChecksumError,
    HydraoptError,
    NotThereError,
    RemoteError,
    UsageError,
)
from hydraopt.files import RemoteFile, Url, copy_to, store_of
from hydraopt.files.stores import AHEAD
from hydraopt.files.web import WebStore
from hydraopt.inspect import difference, listing
from hydraopt.merging import add
from tests.raising import raises
from tests.remote.servers import Reply, Web, same_tasks

NAME = "four.hydra.safetensors"


@pytest.fixture
def served(web: Web, merged: Path) -> str:
    """The address of the bundle."""
    shutil.copy(merged, web.folder / NAME)
    return web.url(NAME)


@pytest.fixture
def long(web: Web) -> tuple[str, bytes]:
    """A file of several requests, and its bytes."""
    data = bytes(i * i % 251 for i in range(5 * AHEAD))
    (web.folder / "long").write_bytes(data)
    return web.url("long"), data


def test_a_bundle_is_read_by_ranges_of_one_task(web: Web, served: str, merged: Path) -> None:
    bundle = open_bundle(served)
    assert list(bundle) == list("abcd")
    bundle["b"].factors()
    sizes = bundle.tensor_bytes
    needed = bundle.files[0].header + sizes["manifest"] + sizes["shared"] + sizes["task/1"]
    assert needed <= web.sent <= max(1.05 * needed, AHEAD + sizes["task/1"])
    assert bundle.fetched == web.sent
    same_tasks(served, merged)


def test_the_second_time_only_the_header_is_fetched(web: Web, served: str) -> None:
    open_bundle(served)["b"].factors()
    web.reset()
    again = open_bundle(served)
    again["b"].factors()
    assert web.sent <= AHEAD
    assert len(web.requests) == 1


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for temporary copies of whole files."""
    folder = tmp_path / "copies"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_server_without_ranges_is_read_whole_and_once(
    web: Web, served: str, merged: Path, copies: Path
) -> None:
    web.ranges = False
    bundle = open_bundle(served)
    assert not list(copies.iterdir())  # nothing stays if the process is killed
    for name in "ab":
        bundle[name].factors()
    assert web.sent == merged.stat().st_size
    assert bundle.fetched == web.sent


def test_a_copy_that_cannot_be_moved_is_deleted(
    web: Web, served: str, merged: Path, copies: Path, tmp_path: Path
) -> None:
    web.ranges = False
    assert copy_to(Url(served), tmp_path / "copied") == merged.stat().st_size
    assert (tmp_path / "copied").read_bytes() == merged.read_bytes()
    with pytest.raises(FileNotFoundError):
        copy_to(Url(served), tmp_path / "nowhere" / "copied")
    assert not list(copies.iterdir())


def test_without_ranges_to_ask_whether_it_is_there_costs_no_body(
    web: Web, served: str, merged: Path
) -> None:
    # As of a file that is too large for what a socket holds.
    large = web.folder / "large"
    large.write_bytes(bytes(16 << 20))
    web.ranges = False
    taken = []
    session = requests.Session.get

    def counted(*given: Any, **how: Any) -> Any:
        reply = session(*given, **how)
        content = reply.iter_content
        reply.iter_content = lambda size: (taken.append(len(x)) or x for x in content(size))
        return reply

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests.Session, "get", counted)
        assert store_of(Url(web.url("large"))).mark(Url(web.url("large"))).size == 16 << 20
        assert taken == []
        assert open_bundle(served).fetched == sum(taken) == merged.stat().st_size


def test_a_whole_file_of_no_stated_length_is_refused(web: Web, served: str) -> None:
    def unsaid(reply: Reply) -> None:
        reply.headers["Content-Length"] = "long"

    web.ranges, web.fault = False, unsaid
    with raises(RemoteError, file="four.hydra.safetensors", got="long", expected="Content-Length"):
        open_bundle(served)


def test_an_empty_file_and_one_of_any_length(web: Web) -> None:
    for size in (0, 1, AHEAD - 1, AHEAD, AHEAD + 1):
        data = bytes(i % 253 for i in range(size))
        (web.folder / "x").write_bytes(data)
        file = RemoteFile(Url(web.url("x")))
        assert file.size == size
        assert file.read(0, size + 10) == data
        assert file.read(size, 5) == b""
        assert file.read(size // 2, 7) == data[size // 2 : size // 2 + 7]


def test_what_passes_is_tried_again(web: Web, long: tuple[str, bytes]) -> None:
    address, data = long

    def fail_twice(reply: Reply) -> None:
        if reply.number % 3 != 2:
            reply.status, reply.body = (503, b"") if reply.number % 3 else (500, b"")

    web.fault = fail_twice
    file = RemoteFile(Url(address))
    assert file.read(AHEAD, 100) == data[AHEAD : AHEAD + 100]
    assert len(web.requests) == 6


@pytest.mark.parametrize("promised", [True, False])
def test_a_range_that_comes_short_once_is_fetched_again(
    web: Web, long: tuple[str, bytes], promised: bool
) -> None:
    address, data = long

    def cut_once(reply: Reply) -> None:
        if reply.number == 1:
            if promised:
                reply.headers["Content-Length"] = str(len(reply.body))
            reply.body, reply.cut = reply.body[:10], True

    web.fault = cut_once
    assert RemoteFile(Url(address)).read(AHEAD, 999) == data[AHEAD : AHEAD + 999]
    assert len(web.requests) == 3


def shifted(first: int, last: int) -> Callable[[Reply], None]:
    """Return a lie: the range that is stated begins and ends later."""

    def lie(reply: Reply) -> None:
        asked, whole = reply.asked or (0, 0), reply.headers["Content-Range"].rpartition("/")[2]
        reply.headers["Content-Range"] = f"bytes {asked[0] + first}-{asked[1] + last}/{whole}"
        reply.body = reply.body[: len(reply.body) + last - first]

    return lie


def stating(**headers: str) -> Callable[[Reply], None]:
    return lambda reply: reply.headers.update({k.replace("_", "-"): x for k, x in headers.items()})


def status(code: int) -> Callable[[Reply], None]:
    def lie(reply: Reply) -> None:
        reply.status = code
        reply.headers["Location"] = reply.path

    return lie


LIES: dict[str, Callable[[Reply], None]] = {
    "short": lambda reply: setattr(reply, "body", reply.body[:-1]),
    "too much": lambda reply: setattr(reply, "body", reply.body + b"x" * 100),
    "shorter range": shifted(0, -1),
    "another range": shifted(1, 1),
    "no words": lambda reply: reply.headers.pop("Content-Range"),
    "packed": stating(Content_Encoding="gzip"),
    "denied": status(403),
    "down": status(503),
    "round and round": status(302),
    "another length": stating(Content_Range=f"bytes {AHEAD}-{AHEAD + 999}/99999999"),
    "another tag": stating(ETag='"another"'),
    "no range": status(200),
    "gone": status(404),
}
LATER = ("another length", "another tag", "no range", "shorter range")
"""Lies about what the first answer said, which at the start are none."""


@pytest.mark.parametrize("lie", LIES)
def test_every_lie_is_an_error_that_names_the_address(
    web: Web, long: tuple[str, bytes], lie: str
) -> None:
    address, _ = long
    file = RemoteFile(Url(address))
    web.fault = LIES[lie]
    with raises(RemoteError, file="long") as caught:
        file.read(AHEAD, 1000)
    assert address in str(caught.value)
    if lie not in LATER:
        with raises(RemoteError, file="long"):
            RemoteFile(Url(address))


def test_flipped_bytes_are_a_checksum_error_and_are_not_kept(
    web: Web, served: str, merged: Path
) -> None:
    def flip(reply: Reply) -> None:
        reply.body = reply.body[:-1] + bytes([reply.body[-1] ^ 1])

    web.fault = flip
    bundle = open_bundle(served)
    last = list(bundle.tensor_bytes)[-1]
    with raises(ChecksumError, file="four.hydra.safetensors"):
        bundle.read(last)
    web.fault = None
    assert open_bundle(served).read(last) == open_bundle(merged).read(last)


def test_a_file_that_is_replaced_between_two_requests_is_an_error(
    web: Web, long: tuple[str, bytes]
) -> None:
    address, data = long
    file = RemoteFile(Url(address))
    assert file.is_current()
    (web.folder / "long").write_bytes(data[::-1])
    assert not file.is_current()
    with raises(RemoteError, file="long"):
        file.read(AHEAD, 10)


def test_messages_have_no_secrets(web: Web, served: str) -> None:
    host = web.address.removeprefix("http://")
    signed = f"http://user:pass-word@{host}/none?X-Signature=secret-key"
    with pytest.raises(NotThereError) as caught:
        open_bundle(signed)
    assert host in str(caught.value)
    assert not any(x in str(caught.value) for x in ("pass-word", "secret-key", "user:"))
    # A query is handed on, and is no part of the name.
    assert list(open_bundle(f"{served}?X-Signature=secret-key")) == list("abcd")


def test_a_host_that_is_not_there_and_what_is_no_address() -> None:
    with raises(RemoteError, file="x", got="ConnectionError"):
        open_bundle("http://127.0.0.1:9/x")
    for odd in ("http://", "http://[::1", "nosuch://x/y", "s3://"):
        with pytest.raises(HydraoptError):
            open_bundle(odd)


def test_a_password_is_hidden_and_an_at_sign_of_a_path_is_not() -> None:
    for text, shown in (
        ("https://me:p@ss@host/a@b/x", "https://host/a@b/x"),
        ("https://host/a@b/x", "https://host/a@b/x"),
        ("s3://bucket/me@host.org/x", "s3://bucket/me@host.org/x"),
        ("hf://owner/name@main/x", "hf://owner/name@main/x"),
    ):
        assert str(Url(text)) == shown


def test_what_is_told_of_an_address_has_no_secrets(
    web: Web, served: str, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = web.address.removeprefix("http://")
    signed = f"http://me:pass-word@{host}/{NAME}?X-Signature=secret-key"
    for told in (listing(signed), difference(signed, served)):
        assert not any(x in str(told) for x in ("pass-word", "secret-key"))
    monkeypatch.setattr(WebStore, "create", lambda *_: True)
    monkeypatch.setattr(WebStore, "remove", lambda *_: None)
    with pytest.raises(UsageError) as caught:
        add(signed, [adapters["a"]])
    assert "secret-key" not in str(caught.value)


def test_a_refused_write_names_the_bundle_and_not_its_lock(
    served: str, adapters: dict[str, Path]
) -> None:
    with raises(RemoteError, file=NAME) as refused:
        add(served, [adapters["a"]])
    assert ".lock" not in str(refused.value)
