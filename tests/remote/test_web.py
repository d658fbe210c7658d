"""Ranges over HTTP: what is right comes through, and every way to lie is an error that says so."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from hydraopt import open_bundle
from hydraopt.collection.listing import difference, listing
from hydraopt.collection.verbs import add, rename
from hydraopt.errors import (
    ChecksumError,
    HydraoptError,
    NotThereError,
    RemoteError,
    TaskNotFoundError,
    UsageError,
)
from hydraopt.files.ranges import AHEAD, RemoteFile
from hydraopt.files.stores import store_of
from hydraopt.files.url import Url
from hydraopt.files.web import WebStore
from tests.remote.servers import Reply, Web

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


def same_tasks(address: Any, local: Path, names: str = "abcd") -> None:
    theirs, ours = open_bundle(address, tasks=names), open_bundle(local)
    for name in names:
        for path, factors in ours[name].factors().items():
            other = theirs[name].factors()[path]
            assert (factors.B == other.B).all()
            assert (factors.A == other.A).all()


def test_a_bundle_is_read_by_ranges_of_one_task(web: Web, served: str, merged: Path) -> None:
    bundle = open_bundle(served)
    assert list(bundle) == list("abcd")
    bundle["b"].factors()
    sizes = bundle.tensor_bytes
    needed = bundle.files[0].header + sizes["manifest"] + sizes["shared"] + sizes["task/1"]
    assert needed <= web.sent <= max(1.05 * needed, AHEAD + sizes["task/1"])
    assert bundle.fetched == web.sent
    same_tasks(served, merged)


def test_a_core_with_task_files_reads_the_files_of_one_task(
    web: Web, apart: Path, merged: Path
) -> None:
    shutil.copytree(apart, web.folder / "four")
    core = web.url("four/four.core.safetensors")
    open_bundle(core, tasks=["b"])["b"].factors()
    files = [apart / "four.core.safetensors", apart / "b.task.safetensors"]
    assert web.sent <= 1.05 * sum(file.stat().st_size for file in files)
    assert not any("c.task" in path or "a.task" in path for path in web.requests)
    same_tasks(core, merged)
    with pytest.raises(TaskNotFoundError, match="'z'"):
        open_bundle(core, tasks=["z"])


def test_a_folder_that_lists_its_files_is_a_collection(web: Web, apart: Path, merged: Path) -> None:
    shutil.copytree(apart, web.folder / "four")
    with pytest.raises(UsageError, match=r"lists no files.*NAME\.core\.safetensors"):
        open_bundle(web.url("four/"))
    with pytest.raises(UsageError, match="Name the tasks"):
        open_bundle(web.url("four/four.core.safetensors"))
    web.listed = True
    assert list(open_bundle(web.url("four/"))) == list("abcd")
    same_tasks(web.url("four/"), merged)


def test_task_files_with_odd_names_are_asked_for_in_full(web: Web, apart: Path) -> None:
    shutil.copytree(apart, web.folder / "four")
    rename(web.folder / "four", "b", "été #1 100%?")
    bundle = open_bundle(web.url("four/four.core.safetensors"), tasks=["été #1 100%?"])
    assert list(bundle) == ["été #1 100%?"]


def test_of_names_that_look_alike_only_the_one_asked_for_is_given(web: Web, apart: Path) -> None:
    folder = web.folder / "four"
    shutil.copytree(apart, folder)
    rename(folder, "b", "A")
    assert (folder / "A~2.task.safetensors").is_file()
    for address in (folder, web.url("four/four.core.safetensors")):
        for name in ("a", "A"):
            assert list(open_bundle(address, tasks=[name])) == [name]


def test_the_second_time_only_the_header_is_fetched(web: Web, served: str) -> None:
    open_bundle(served)["b"].factors()
    web.reset()
    again = open_bundle(served)
    again["b"].factors()
    assert web.sent <= AHEAD
    assert len(web.requests) == 1


def test_a_server_without_ranges_is_read_whole_and_once(
    web: Web, served: str, merged: Path
) -> None:
    web.ranges = False
    bundle = open_bundle(served)
    for name in "ab":
        bundle[name].factors()
    assert web.sent == merged.stat().st_size
    assert bundle.fetched == web.sent


def test_without_ranges_to_ask_whether_it_is_there_costs_no_body(
    web: Web, served: str, merged: Path
) -> None:
    # As of a file that is too large for what a socket holds.
    large = web.folder / "large"
    large.write_bytes(bytes(64 << 20))
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
        assert store_of(Url(web.url("large"))).mark(Url(web.url("large"))).size == 64 << 20
        assert taken == []
        assert open_bundle(served).fetched == sum(taken) == merged.stat().st_size


def test_a_whole_file_of_no_stated_length_is_refused(web: Web, served: str) -> None:
    def unsaid(reply: Reply) -> None:
        reply.headers["Content-Length"] = "long"

    web.ranges, web.fault = False, unsaid
    with pytest.raises(RemoteError, match="states no length"):
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


def short(reply: Reply) -> None:
    reply.body = reply.body[:-1]


def shorter_range(reply: Reply) -> None:
    first, last = reply.asked or (0, 0)
    whole = reply.headers["Content-Range"].rpartition("/")[2]
    reply.body = reply.body[:-1]
    reply.headers["Content-Range"] = f"bytes {first}-{last - 1}/{whole}"


def other_range(reply: Reply) -> None:
    first, last = reply.asked or (0, 0)
    whole = reply.headers["Content-Range"].rpartition("/")[2]
    reply.headers["Content-Range"] = f"bytes {first + 1}-{last + 1}/{whole}"


def other_length(reply: Reply) -> None:
    reply.headers["Content-Range"] = reply.headers["Content-Range"].rpartition("/")[0] + "/99999999"


def other_tag(reply: Reply) -> None:
    reply.headers["ETag"] = '"another"'


def no_range(reply: Reply) -> None:
    reply.status = 200


def too_much(reply: Reply) -> None:
    reply.body += b"x" * 100


def no_words(reply: Reply) -> None:
    del reply.headers["Content-Range"]


def packed(reply: Reply) -> None:
    reply.headers["Content-Encoding"] = "gzip"


def gone_now(reply: Reply) -> None:
    reply.status = 404


def denied(reply: Reply) -> None:
    reply.status = 403


def down(reply: Reply) -> None:
    reply.status = 503


def round_and_round(reply: Reply) -> None:
    reply.status = 302
    reply.headers["Location"] = reply.path


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        (short, "came short"),
        (shorter_range, "another range"),
        (other_range, "another range"),
        (other_length, "changed while it was read"),
        (other_tag, "changed while it was read"),
        (no_range, "no range"),
        (too_much, "more than was asked"),
        (no_words, "another range"),
        (packed, "another form"),
        (gone_now, "nothing is at the address"),
        (denied, "denies access"),
        (down, r"4 times.*status 503"),
        (round_and_round, "circle"),
    ],
)
def test_every_lie_is_an_error_that_names_the_address(
    web: Web, long: tuple[str, bytes], lie: Callable[[Reply], None], says: str
) -> None:
    address, _ = long
    file = RemoteFile(Url(address))
    web.fault = lie
    with pytest.raises(RemoteError, match=f"(?s){says}") as caught:
        file.read(AHEAD, 1000)
    assert address in str(caught.value)


@pytest.mark.parametrize("lie", [short, other_range, too_much, no_words, packed, denied, down])
def test_a_lie_at_the_start_is_an_error(
    web: Web, long: tuple[str, bytes], lie: Callable[[Reply], None]
) -> None:
    web.fault = lie
    with pytest.raises(RemoteError):
        RemoteFile(Url(long[0]))


def test_flipped_bytes_are_a_checksum_error_and_are_not_kept(
    web: Web, served: str, merged: Path
) -> None:
    def flip(reply: Reply) -> None:
        reply.body = reply.body[:-1] + bytes([reply.body[-1] ^ 1])

    web.fault = flip
    bundle = open_bundle(served)
    last = list(bundle.tensor_bytes)[-1]
    with pytest.raises(ChecksumError, match=r"127\.0\.0\.1"):
        bundle.read(last)
    web.fault = None
    assert open_bundle(served).read(last) == open_bundle(merged).read(last)


def test_redirects_are_followed(web: Web, served: str, merged: Path) -> None:
    def lead(reply: Reply) -> None:
        if reply.path.startswith("/old/"):
            reply.status, reply.body = 302, b""
            reply.headers["Location"] = served

    web.fault = lead
    same_tasks(web.url(f"old/{NAME}"), merged)


def test_a_file_that_is_replaced_between_two_requests_is_an_error(
    web: Web, long: tuple[str, bytes]
) -> None:
    address, data = long
    file = RemoteFile(Url(address))
    assert file.is_current()
    (web.folder / "long").write_bytes(data[::-1])
    assert not file.is_current()
    with pytest.raises(RemoteError, match="changed while it was read"):
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
    with pytest.raises(RemoteError, match=r"127\.0\.0\.1:9.*Check the address"):
        open_bundle("http://127.0.0.1:9/x")
    for odd in ("http://", "http://[::1", "nosuch://x/y", "s3://"):
        with pytest.raises(HydraoptError):
            open_bundle(odd)


@pytest.mark.parametrize("size", [0, 7, 100])
def test_what_is_no_bundle_is_refused(web: Web, size: int) -> None:
    (web.folder / "x").write_bytes(b"\xff" * size)
    with pytest.raises(HydraoptError, match=r"127\.0\.0\.1"):
        open_bundle(web.url("x"))
    assert web.sent == size


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


def test_a_list_that_comes_later_is_waited_for(web: Web, apart: Path) -> None:
    shutil.copytree(apart, web.folder / "four")
    web.listed = True
    tries = []

    def fail_twice(reply: Reply) -> None:
        if reply.path.endswith("/") and len(tries) < 2:
            tries.append(reply.path)
            reply.status = 503

    web.fault = fail_twice
    assert list(open_bundle(web.url("four/"))) == list("abcd")
    assert len(tries) == 2


def test_a_list_that_is_too_long_is_refused(
    web: Web, apart: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydraopt.files import web as reading

    shutil.copytree(apart, web.folder / "four")
    web.listed = True
    monkeypatch.setattr(reading, "_MOST_PAGE", 50)
    with pytest.raises(RemoteError, match=r"list of the folder is too long.*core file"):
        open_bundle(web.url("four/"))


def test_a_page_of_half_links_takes_no_time() -> None:
    from hydraopt.files.web import _LINK

    started = time.process_time()
    assert _LINK.findall("<a " * 100_000) == []
    assert time.process_time() - started < 5
    assert _LINK.findall("<a class='x'\nhref = \"y\">") == ["y"]


def test_gaps_in_the_numbers_of_names_hide_no_task(web: Web, apart: Path) -> None:
    folder = web.folder / "four"
    shutil.copytree(apart, folder)
    (folder / "b.task.safetensors").rename(folder / "b~3.task.safetensors")
    core = web.url("four/four.core.safetensors")
    assert list(open_bundle(core, tasks=["b"])) == ["b"]
