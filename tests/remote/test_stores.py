"""Bundles, collections and adapters in stores that can be written: memory, and S3 by moto."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from hydraopt import merge, open_bundle, read_adapter, read_adapters, verify_bundle
from hydraopt.bundle import join, split
from hydraopt.errors import (
    AdapterFormatError,
    HydraoptError,
    LockedError,
    NotThereError,
    RemoteError,
    TaskNotFoundError,
    UsageError,
)
from hydraopt.files import INDEX_NAME, Url, files_in, origin_of, store_of, stores
from hydraopt.merging import add, remove, rename, replace
from tests.editing.living import all_bytes, state
from tests.marks import slow
from tests.raising import raises
from tests.remote.conftest import STORES, at_address
from tests.remote.servers import raw_server

DAY = "2026-03-01"

Upload = Callable[[Path, str], None]
Content = Callable[[str], dict[str, bytes]]

S3_ALONE = pytest.mark.parametrize("bucket", ["s3"], indirect=True)
"""What is in memory is of one process, and denies nobody."""


@pytest.mark.slow
@S3_ALONE
def test_a_folder_of_more_objects_than_a_page_is_seen_whole(bucket: str) -> None:
    """S3 lists a thousand at a time."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    held = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    names = [f"{i:04d}.task.safetensors" for i in range(600)]
    for name in names:
        held.put_object(bucket.removeprefix("s3://"), f"many/{name}", b"x" * (len(name) % 7))
        held.put_object(bucket.removeprefix("s3://"), f"many/{name}.d/inside", b"")
    there = files_in(Url(f"{bucket}/many"))
    assert there is not None
    assert [x.name for x in there if not x.is_folder] == names
    assert [x.name for x in there if x.is_folder] == [f"{name}.d" for name in names]
    assert all(x.mark and x.size == len(x.name) % 7 for x in there if not x.is_folder)
    pattern = Url(f"{bucket}/many/05*.task.safetensors")
    assert [x.name for x in store_of(pattern).matches(pattern)] == names[500:]


def test_a_bundle_there_is_the_bundle_here(
    both: Path, bucket: str, upload: Upload, adapters: dict[str, Path]
) -> None:
    address = at_address(both, bucket, upload)
    there, here = open_bundle(address), open_bundle(both)
    assert list(there) == list(here)
    assert there.size == here.size
    assert there.sha256() == here.sha256()
    report = verify_bundle(address, read_adapters([adapters[name] for name in "abcd"]))
    assert report.ok, report.problems


@STORES
def test_a_merge_from_there_to_there_is_the_merge_from_here_to_here(
    bucket: str, upload: Upload, content: Content, adapters: dict[str, Path], merged: Path
) -> None:
    for name in "abcd":
        upload(adapters[name], f"{bucket}/adapters/{name}")
    upload(merged, f"{bucket}/adapters/README.md")
    result = merge(f"{bucket}/adapters/*", f"{bucket}/made/four.hydra.safetensors", error=0.05)
    assert content(f"{bucket}/made") == {"four.hydra.safetensors": merged.read_bytes()}
    assert str(result.path) == f"{bucket}/made/four.hydra.safetensors"
    files = f"{bucket}/adapters/*/*.safetensors"
    named = [f"{bucket}/adapters/a", f"b={bucket}/adapters/b/adapter_model.safetensors"]
    assert [x.name for x in read_adapters(files)] == list("abcd")
    assert [x.name for x in read_adapters(named)] == list("ab")


def test_what_is_wrong_with_an_adapter_names_its_address(
    bucket: str, upload: Upload, adapters: dict[str, Path], tmp_path: Path
) -> None:
    with raises(NotThereError, file="none"):
        read_adapter(f"{bucket}/none")
    with raises(NotThereError, file="none.safetensors"):
        read_adapter(f"{bucket}/none.safetensors")
    with pytest.raises(UsageError):
        read_adapters(f"{bucket}/none*")
    upload(adapters["a"], f"{bucket}/in/a")
    with raises(
        AdapterFormatError,
        file="in",
        got="adapters in subfolders: a",
        expected="adapter_model.safetensors",
    ):
        read_adapter(f"{bucket}/in")
    bad = tmp_path / "bad"
    shutil.copytree(adapters["a"], bad)
    (bad / "adapter_model.safetensors").write_bytes(b"\xff" * 100)
    upload(bad, f"{bucket}/bad")
    with raises(AdapterFormatError, file="adapter_model.safetensors") as caught:
        read_adapter(f"{bucket}/bad")
    assert "copies" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("bucket", ["memory"], indirect=True)
def test_copies_go_with_the_process(
    bucket: str, upload: Upload, adapters: dict[str, Path], tmp_path: Path
) -> None:
    upload(adapters["a"], f"{bucket}/a")
    source = read_adapter(f"{bucket}/a").source
    assert isinstance(source, Path)
    assert str(origin_of(source)) == f"{bucket}/a/adapter_model.safetensors"
    root = tmp_path / "elsewhere"
    script = (
        f"import os; os.environ['HYDRAOPT_CACHE'] = {str(root)!r}; import fsspec, hydraopt\n"
        f"fsspec.filesystem('memory').put({str(adapters['a'])!r}, '/a', recursive=True)\n"
        f"print(hydraopt.read_adapter('memory://a').source.is_file())\n"
        "import sys; sys.stdout.flush(); os._exit(1) if sys.argv[1:] else None"
    )
    run = [sys.executable, "-c", script]
    assert subprocess.run([*run, "killed"], capture_output=True, check=False).stdout == b"True\n"
    assert len(list(root.iterdir())) == 1
    assert subprocess.run(run, capture_output=True, check=True).stdout == b"True\n"
    assert list(root.iterdir()) == []


def test_split_there_and_joined_back(
    bucket: str, upload: Upload, content: Content, merged: Path, apart: Path, tmp_path: Path
) -> None:
    upload(merged, f"{bucket}/four.hydra.safetensors")
    folder = f"{bucket}/parts"
    files = split(f"{bucket}/four.hydra.safetensors", folder)
    assert files[0].path.name == "four.core.safetensors"
    assert content(folder) == state(apart)
    with raises(UsageError, file="parts"):
        split(merged, folder)
    upload(apart / "a.task.safetensors", f"{folder}/stale.task.safetensors")
    upload(apart / "a.task.safetensors", f"{folder}/other.bin")
    split(merged, folder, overwrite=True)
    assert content(folder).keys() == {*state(apart), "other.bin"}
    join([folder], f"{bucket}/again.hydra.safetensors")
    join([f"{folder}/four.core.safetensors", f"{folder}/b.task.safetensors"], tmp_path / "b")
    assert content(bucket)["again.hydra.safetensors"] == merged.read_bytes()
    assert list(open_bundle(tmp_path / "b")) == ["b"]


def test_one_task_of_a_folder_is_all_that_is_opened(
    bucket: str, upload: Upload, apart: Path
) -> None:
    upload(apart, f"{bucket}/four")
    for address in (f"{bucket}/four", f"{bucket}/four/", f"{bucket}/four/four.core.safetensors"):
        bundle = open_bundle(address, tasks=["b"])
        assert list(bundle) == ["b"]
        assert [file.path.name for file in bundle.files][1:] == ["b.task.safetensors"]
        with pytest.raises(TaskNotFoundError):
            open_bundle(address, tasks=["b", "z"])
    for none in ("none", "none/", "four/none.core.safetensors"):
        with pytest.raises(NotThereError):
            open_bundle(f"{bucket}/{none}")
    for local in (apart, apart / "four.core.safetensors"):
        assert list(open_bundle(local, tasks=["b"])) == ["b"]
        assert list(open_bundle(local, tasks=())) == []


@pytest.mark.parametrize(
    ("both", "bucket"),
    [("file", "memory"), ("folder", "memory"), slow("folder", "s3"), slow("file", "s3")],
    indirect=True,
)
def test_verbs_there_leave_what_they_leave_here(
    both: Path, bucket: str, upload: Upload, content: Content, adapters: dict[str, Path]
) -> None:
    address = at_address(both, bucket, upload)

    def same() -> None:
        there = content(address) if both.is_dir() else {both.name: content(bucket)[both.name]}
        assert there == state(both)
        assert all_bytes(address) == all_bytes(both)  # type: ignore[arg-type]

    upload(adapters["e"], f"{bucket}/e")
    for path in (both, address):
        add(path, [adapters["e"] if path is both else f"{bucket}/e"], day=DAY)
    same()
    for path in (both, address):
        rename(path, "e", "0-first")
        replace(path, [f"c={adapters['a']}"], day=DAY)
    same()
    for path in (both, address):
        remove(path, ["d", "0-first"])
    same()
    for act, kind in (
        (lambda: add(address, [adapters["a"]]), UsageError),
        (lambda: remove(address, ["z"]), TaskNotFoundError),
    ):
        with pytest.raises(kind):
            act()
    same()


@pytest.mark.slow
@STORES
def test_adding_there_costs_what_the_task_costs(
    bucket: str,
    upload: Upload,
    apart: Path,
    adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upload(apart, f"{bucket}/four")
    if bucket.startswith("memory:"):
        # Its tags say when, not what: the first change reads all, to know them by these.
        rename(f"{bucket}/four", "d", "D")
    kind = type(store_of(Url(bucket)))
    opened = []
    start = kind.start

    def counted(self: object, url: Url, ahead: int, *check: object) -> object:
        opened.append(url.name)
        return start(self, url, ahead, *check)  # type: ignore[arg-type]

    monkeypatch.setattr(kind, "start", counted)
    add(f"{bucket}/four", [adapters["e"]], day=DAY)
    assert set(opened) <= {"four.core.safetensors", INDEX_NAME}


def test_two_writers_and_a_lock_that_was_left(
    both: Path, bucket: str, upload: Upload, adapters: dict[str, Path]
) -> None:
    from hydraopt.bundle import collection_at

    address = at_address(both, bucket, upload)
    with collection_at(address).locked(), pytest.raises(LockedError) as no:
        remove(address, ["a"])
    assert "no longer runs, delete" in str(no.value)
    remove(address, ["a"])  # the lock went with its holder
    core = "four/.tasks.lock" if both.is_dir() else f".{both.name}.lock"
    system, where = fsspec.core.url_to_fs(f"{bucket}/{core}")
    assert not system.exists(where)
    for odd in (b"no JSON", b"[" * 200_000, b"[]"):
        system.pipe_file(where, odd)
        with raises(LockedError, got="a lock"):
            remove(address, ["b"])
    system.rm_file(where)
    remove(address, ["b"])


@STORES
def test_only_one_of_many_creates(bucket: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    url = Url(f"{bucket}/lock")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: store_of(url).create(url, b"%d" % i), range(8)))
    assert made.count(True) == 1


def test_denied_is_said_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # it is not asked
    fsspec.filesystem("s3").clear_instance_cache()
    with raises(RemoteError, file="x.hydra.safetensors", got="NoCredentialsError"):
        open_bundle("s3://bucket/x.hydra.safetensors")


@pytest.mark.slow
@S3_ALONE
def test_a_failing_store_gets_no_requests_beyond_our_retries(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = b"HTTP/1.1 500 Failure\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with raw_server(lambda _: [failure]) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        with raises(RemoteError, file="x.hydra.safetensors"):
            open_bundle(f"{bucket}/x.hydra.safetensors")
    assert len(server.requests) == len(stores.WAITS) + 1


@STORES
def test_an_object_that_changes_in_between_is_an_error(bucket: str) -> None:
    from hydraopt.files import RemoteFile
    from hydraopt.files.stores import AHEAD

    system, where = fsspec.core.url_to_fs(f"{bucket}/x")
    system.pipe_file(where, bytes(3 * AHEAD))
    file = RemoteFile(Url(f"{bucket}/x"))
    assert file.is_current()
    system.pipe_file(where, bytes(AHEAD + 10))
    assert not file.is_current()
    with raises(RemoteError, file="x", got="8202 bytes", expected="24576 bytes"):
        file.read(AHEAD, AHEAD)


def test_nothing_is_written_over_http(adapters: dict[str, Path]) -> None:
    with raises(UsageError, file="x.hydra.safetensors"):
        merge([adapters["a"]], "http://127.0.0.1:9/x.hydra.safetensors", error=0.1)
    with raises(HydraoptError, file="*"):
        read_adapters("http://127.0.0.1:9/*")


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with raises(RemoteError, file="x.hydra.safetensors", expected="gcsfs"):
        open_bundle("gs://bucket/x.hydra.safetensors")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with raises(RemoteError, expected="fsspec"):
        open_bundle("s3://bucket/x.hydra.safetensors")
    monkeypatch.undo()
    with raises(RemoteError, file="x", got="nosuch"):
        open_bundle("nosuch://bucket/x")
