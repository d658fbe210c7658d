"""The cache of fetched bytes: whole or absent, bounded, and checked by who reads it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hydraopt import open_bundle
from hydraopt.errors import UsageError
from hydraopt.files import Cache, Url, bytes_of, cache_root, new_folder, remote_cache
from tests.raising import raises
from tests.remote.servers import Web

KEY = "0123456789abcdef"


def key(number: int) -> str:
    return f"{number:016x}"


def test_what_was_put_comes_back_and_nothing_else(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", 100)
    assert cache.get(KEY, 3) is None
    cache.put(KEY, b"abc")
    assert cache.get(KEY, 3) == b"abc"
    assert cache.get(KEY, 4) is None
    assert cache.size() == 3
    cache.drop(KEY, 3)
    assert cache.get(KEY, 3) is None


def test_where_it_lies_is_named_or_where_the_system_keeps_caches() -> None:
    home = Path.home() / ".cache" / "hydraopt"
    assert cache_root({"HYDRAOPT_CACHE": "/here", "XDG_CACHE_HOME": "/caches"}) == Path("/here")
    assert cache_root({"XDG_CACHE_HOME": "/caches"}) == Path("/caches/hydraopt")
    for nowhere in ({}, {"XDG_CACHE_HOME": ""}, {"XDG_CACHE_HOME": "caches"}):
        assert cache_root(nowhere) == home


def test_it_never_takes_more_than_its_bound_and_the_oldest_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", 100)
    for i in range(10):
        cache.put(key(i), bytes(10))
        os.utime(tmp_path / "c" / f"{key(i)}-10", (i, i))
    assert cache.get(key(0), 10) is not None  # used now, so it is the youngest
    cache.put(key(99), bytes(15))
    assert cache.size() <= 100
    there = {i for i in range(10) if (tmp_path / "c" / f"{key(i)}-10").exists()}
    assert there == {0, 4, 5, 6, 7, 8, 9}  # a tenth stays free for those that come
    cache.put(key(100), bytes(101))
    assert cache.get(key(100), 101) is None
    assert cache.get(key(99), 15) is not None


@pytest.mark.parametrize("checksum", ["../../x", "", "a/b", "ABCDEF0123456789", ".lock"])
def test_a_checksum_that_is_none_names_no_file(tmp_path: Path, checksum: str) -> None:
    cache = Cache(tmp_path / "c", 100)
    cache.put(checksum, b"x")
    assert cache.get(checksum, 1) is None
    assert list(tmp_path.rglob("*x*")) == []


def test_none_of_it_is_needed(tmp_path: Path) -> None:
    none = Cache(tmp_path / "c", 0)
    none.put(KEY, b"abc")
    assert not (tmp_path / "c").exists()
    (tmp_path / "file").write_bytes(b"")
    in_the_way = Cache(tmp_path / "file", 100)
    in_the_way.put(KEY, b"abc")
    assert in_the_way.get(KEY, 3) is None


def test_bytes_that_were_harmed_on_this_machine_are_fetched_again(web: Web, merged: Path) -> None:
    (web.folder / "x.safetensors").write_bytes(merged.read_bytes())
    first = open_bundle(web.url("x.safetensors"))
    data = first.read("task/0")
    (file,) = remote_cache().folder.glob(f"{first.checksum('task/0')}-*")
    file.write_bytes(bytes(len(data)))
    again = open_bundle(web.url("x.safetensors"))
    assert again.read("task/0") == data
    assert file.read_bytes() == data


WORKER = """
import sys
from pathlib import Path
from hydraopt.files.cache import Cache
cache, worst = Cache(Path(sys.argv[1]), 5000), 0
for i in range(60):
    number = (i * 7 + int(sys.argv[2]) * 3) % 40
    size = 100 + number
    data = bytes([number]) * size
    kept = cache.get(f"{number:016x}", size)
    assert kept in (None, data), "torn"
    cache.put(f"{number:016x}", data)
    worst = max(worst, cache.size())
assert worst <= 5000, worst
"""


def test_many_processes_share_it(tmp_path: Path) -> None:
    run = [sys.executable, "-c", WORKER, str(tmp_path / "c")]
    workers = [
        subprocess.Popen([*run, str(i)], stderr=subprocess.PIPE, text=True) for i in range(3)
    ]
    assert [(worker.communicate()[1], worker.returncode) for worker in workers] == [("", 0)] * 3
    assert not list((tmp_path / "c").glob("*.new"))


def test_what_a_killed_writer_left_goes(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "left.new").write_bytes(bytes(10))
    Cache(tmp_path / "c", 100).put(KEY, b"abc")
    assert {x.name for x in (tmp_path / "c").iterdir()} == {".lock", f"{KEY}-3"}


def test_sizes_of_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"0": 0, "17": 17, "500MB": 500_000_000, "4 gb": 4_000_000_000, "3kB": 3000}
    assert {text: bytes_of(text, "X") for text in sizes} == sizes
    for wrong in ("", "-1", "1.5GB", "much", "4GiB", "GB", "3K"):
        with pytest.raises(UsageError):
            bytes_of(wrong, "X")
    monkeypatch.setenv("HYDRAOPT_CACHE_SIZE", "4 apples")
    with raises(UsageError, got="4 apples"):
        remote_cache()


def test_the_folder_is_listed_only_when_it_may_be_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, real = [], os.scandir

    def counted(folder: Path):
        listed.append(folder)
        return real(folder)

    monkeypatch.setattr(os, "scandir", counted)
    for number in range(12):
        Cache(tmp_path / "c", 100).put(key(number), bytes(10))
    assert len(listed) == 2  # the first time, and when it is full
    assert Cache(tmp_path / "c", 100).size() == 100
    (tmp_path / "c" / ".lock").write_bytes(b"nonsense")
    Cache(tmp_path / "c", 100).put(key(20), bytes(10))
    assert Cache(tmp_path / "c", 100).size() == 90


def test_what_cannot_be_touched_is_there_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError

    cache = Cache(tmp_path / "c", 100)
    cache.put(KEY, b"abc")
    monkeypatch.setattr(os, "utime", denied)
    assert cache.get(KEY, 3) == b"abc"


def test_copies_go_on_where_the_cache_was_cleared() -> None:
    there = Url("memory://x")
    first = new_folder(there)
    shutil.rmtree(first.parent)
    assert new_folder(there).parent == first.parent


def test_copies_need_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home may be read-only, as in containers: they lie with what is temporary then."""
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("HYDRAOPT_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as a process that has made no copies
    folder = new_folder(Url("memory://bucket/adapter"))
    assert folder.is_dir()
    assert tmp_path in folder.parents
