"""A collection in a folder that is changed under the server: changes count from a reload on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from hydraopt.bundle import split
from hydraopt.files import INDEX_NAME, Url
from hydraopt.merging import refresh, remove, rename, replace
from tests.conftest import write_adapter
from tests.marks import slow
from tests.runtime.conftest import pairs
from tests.serve.conftest import BASE, TASKS, offline, plain
from tests.serve.test_reload import names
from tests.serve.test_server import complete


@pytest.fixture
def folder(bundle_of: Callable[[str], Path], tmp_path: Path) -> Path:
    """A collection of its own to be done with as one likes."""
    split(bundle_of("all"), tmp_path / "served")
    return tmp_path / "served"


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Another "de" and another "fr"."""
    at = tmp_path_factory.mktemp("others")
    return [write_adapter(at / name, pairs(9 + i, 3)) for i, name in enumerate(("de", "fr"))]


def said(running: Any, task: str) -> str:
    text: str = complete(running.client(), task, "go", max_tokens=9).choices[0].text
    return text


def refused(running: Any, task: str) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        said(running, task)
    return caught.value


@contextmanager
def begun(serve: Callable[..., Any], place: Path | Url) -> Iterator[Any]:
    """A server that has answered with every task, as ``hydraopt serve`` has at its start."""
    with serve(bundle=place) as running:
        for task in TASKS:
            said(running, task)
        yield running


@pytest.mark.parametrize("how", ["index", slow("no index"), slow("core")])
def test_a_changed_task_is_503_until_a_reload(serve, wild, folder, others, logged, how) -> None:
    if how == "no index":
        (folder / INDEX_NAME).unlink()
    place = next(folder.glob("*.core.*")) if how == "core" else folder
    with begun(serve, place) as running:
        before = said(running, "fr")
        replace(folder, others[:1])
        remove(folder, ["en"])
        rename(folder, "es", "nl")
        for task in ("de", "en", "es"):
            error = refused(running, task)
            assert (error.status_code, error.code) == (503, "bundle_unreadable")
            assert error.response.headers["retry-after"]
            assert "POST /reload" in str(error)
            assert str(folder.parent) not in str(error)
        assert said(running, "fr") == before
        assert names(running) == [BASE, *TASKS]
        lines = [x.getMessage() for x in logged.records if x.levelno >= logging.WARNING]
        assert [x.partition(":")[0] for x in lines] == [
            f"no answer of {task!r}" for task in ("de", "en", "es")
        ]
        assert not any(x.exc_info for x in logged.records)
        assert plain(f"{running.address}/reload", {}).status == 200
        assert names(running) == [BASE, "de", "fr", "nl"]
        found = {task: said(running, task) for task in ("de", "fr", "nl")}
    assert found == {task: offline(wild, folder, task, "go", 9)[0] for task in found}


@pytest.mark.slow
def test_another_core_is_taken_by_a_reload(serve, wild, folder) -> None:
    with begun(serve, folder) as running:
        refresh(folder, error=0.2)
        assert refused(running, "de").status_code == 503
        assert plain(f"{running.address}/reload", {}).status == 200
        found = {task: said(running, task) for task in TASKS}
    assert found == {task: offline(wild, folder, task, "go", 9)[0] for task in found}


def test_a_folder_that_is_gone_is_503(serve, folder) -> None:
    with begun(serve, folder) as running:
        folder.rename(folder.with_name("elsewhere"))
        assert refused(running, "de").status_code == 503
        folder.with_name("elsewhere").rename(folder)
        assert said(running, "de")


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An address in a store of which nothing is kept here but what the cache keeps."""
    monkeypatch.setenv("HYDRAOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HYDRAOPT_CACHE_SIZE", "0")
    monkeypatch.setattr("hydraopt.files.stores.AHEAD", 64)
    return f"memory://served/{tmp_path.name}"


@pytest.mark.slow
@pytest.mark.parametrize("cached", [True, False])
def test_a_folder_of_a_store_is_503_until_a_reload_unless_it_is_kept_here(
    serve, bundle_of, others, stored, monkeypatch, cached
) -> None:
    if cached:
        monkeypatch.setenv("HYDRAOPT_CACHE_SIZE", "100MB")
    place = Url(f"{stored}/")
    split(bundle_of("all"), place)
    with begun(serve, place) as running:
        before = said(running, "de")
        said(running, "fr")  # what was read last is still in memory
        replace(place, others[:1])
        if cached:
            assert said(running, "de") == before
        else:
            assert refused(running, "de").status_code == 503
        assert plain(f"{running.address}/reload", {}).status == 200
        again = said(running, "de")
    assert again != before


def test_one_file_of_a_store_that_is_replaced_is_503(serve, bundle_of, stored) -> None:
    import fsspec

    place, files = Url(f"{stored}.hydra.safetensors"), fsspec.filesystem("memory")
    files.pipe(str(place), bundle_of("all").read_bytes())
    with begun(serve, place) as running:
        files.pipe(str(place), bundle_of("two-sided").read_bytes())
        assert refused(running, "de").status_code == 503
        assert plain(f"{running.address}/reload", {}).status == 200
        assert said(running, "de")
