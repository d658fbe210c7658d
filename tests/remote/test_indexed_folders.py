"""A folder with an index in a store: a listing and one object more tell what there is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hydraopt import merge, open_bundle
from hydraopt.bundle import as_folder, split
from hydraopt.errors import TaskNotFoundError, UsageError
from hydraopt.files import INDEX_NAME, Url, is_there, store_of
from hydraopt.files.addresses import PassingError
from hydraopt.inspect import listing
from hydraopt.merging import add, rename, replace
from tests.raising import raises
from tests.remote.conftest import NAMES, STORES
from tests.remote.servers import Web, same_tasks

Upload = Callable[[Path, str], None]
DAY = "2026-03-01"


@pytest.fixture
def asked(bucket: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the objects that are opened; "listed" for each list of a folder."""
    kind, names = type(store_of(Url(bucket))), []
    start, entries = kind.start, kind.entries

    def started(self: object, url: Url, ahead: int, *check: object) -> object:
        names.append(url.name)
        return start(self, url, ahead, *check)  # type: ignore[arg-type]

    def told(self: object, url: Url) -> object:
        names.append("listed")
        return entries(self, url)  # type: ignore[arg-type]

    monkeypatch.setattr(kind, "start", started)
    monkeypatch.setattr(kind, "entries", told)
    return names


@STORES
def test_opening_takes_a_list_and_the_index(bucket: str, merged: Path, asked: list[str]) -> None:
    address = f"{bucket}/four/"
    split(merged, address)
    asked.clear()
    bundle = open_bundle(address)
    assert list(bundle) == list(NAMES)
    assert listing(address).tasks == listing(merged).tasks
    assert sorted(asked) == sorted(["listed", "four.core.safetensors", INDEX_NAME] * 2)
    asked.clear()
    bundle["b"].factors()
    assert asked == ["b.task.safetensors"]
    same_tasks(address, merged)


def test_a_store_that_does_not_take_the_index_takes_the_change(
    bucket: str, merged: Path, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one goes: over HTTP without a list it would be believed."""
    address = f"{bucket}/four/"
    split(merged, address)
    kind = type(store_of(Url(address)))
    put = kind.put

    def busy(self: object, url: Url, data: bytes) -> None:
        if url.name == INDEX_NAME:
            raise PassingError("busy")
        put(self, url, data)  # type: ignore[arg-type]

    monkeypatch.setattr(kind, "put", busy)
    (warning,) = add(address, [adapters["e"]], day=DAY).warnings
    assert warning.code == "no_index"
    assert not is_there(Url(f"{address}{INDEX_NAME}"))
    assert list(open_bundle(address)) == [*NAMES, "e"]


@pytest.mark.slow
@STORES
def test_a_folder_that_was_uploaded_keeps_its_index_in_s3(
    bucket: str, upload: Upload, apart: Path, merged: Path, asked: list[str]
) -> None:
    """There the tag of a small object is the MD5 of its bytes. The tags of other stores prove
    nothing, and files are read."""
    upload(apart, f"{bucket}/four")
    assert list(open_bundle(f"{bucket}/four/")) == list(NAMES)
    read = [name for name in asked if name.endswith(".task.safetensors")]
    assert bool(read) == bucket.startswith("memory:")
    same_tasks(f"{bucket}/four/", merged)


def test_an_object_that_was_replaced_is_read(
    bucket: str, merged: Path, apart: Path, asked: list[str]
) -> None:
    address = f"{bucket}/four/"
    split(merged, address)
    store = store_of(Url(address))
    store.put(Url(f"{address}c.task.safetensors"), (apart / "a.task.safetensors").read_bytes())
    store.remove(Url(f"{address}a.task.safetensors"))
    asked.clear()
    assert list(open_bundle(address)) == ["a", "b", "d"]
    assert [x for x in asked if x.endswith(".task.safetensors")] == ["c.task.safetensors"]


def test_over_http_a_folder_needs_no_list(web: Web, apart: Path, merged: Path) -> None:
    shutil.copytree(apart, web.folder / "four")
    for address in (web.url("four/"), web.url("four/four.core.safetensors")):
        bundle = open_bundle(address)
        assert list(bundle) == list(NAMES)
        assert not any(".task." in path for path in web.requests)
        assert web.requests.count(f"/four/{INDEX_NAME}") == 1
        bundle["b"].factors()
        assert [path for path in web.requests if ".task." in path][:1] == [
            "/four/b.task.safetensors"
        ]
        assert [row.name for row in bundle.rows] == list(NAMES)
        web.reset()
    same_tasks(web.url("four/"), merged)


@pytest.mark.slow
@pytest.mark.parametrize("listed", [False, True])
def test_over_http_an_old_index_finds_and_does_not_tell(
    web: Web, apart: Path, adapters: dict[str, Path], listed: bool
) -> None:
    """Nothing there says whether a file changed, so what is said of tasks is read from them."""
    folder = web.folder / "four"
    shutil.copytree(apart, folder)
    old = (folder / INDEX_NAME).read_bytes()
    replace(folder, [f"a={adapters['e']}"], day=DAY)
    rename(folder, "b", "B")
    (folder / INDEX_NAME).write_bytes(old)
    web.listed = listed
    bundle = open_bundle(web.url("four/"))
    assert bundle["a"].entry.added is not None
    if listed:
        assert listing(web.url("four/")).tasks == listing(folder).tasks
        assert bundle["d"].name == "d"
        with pytest.raises(TaskNotFoundError):
            open_bundle(web.url("four/"))["b"]


def test_a_folder_of_a_store_is_one_without_its_slash(
    bucket: str, merged: Path, adapters: dict[str, Path]
) -> None:
    """Else a merge would put a file of that name beside the folder."""
    split(merged, f"{bucket}/four")
    with raises(UsageError, file="four"):
        merge([adapters["a"]], f"{bucket}/four", error=0.1)
    assert not as_folder(f"{bucket}/new")
    assert list(open_bundle(f"{bucket}/four")) == list(NAMES)
