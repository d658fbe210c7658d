"""A collection in a folder that is changed under the server: a task is taken as its file is now."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from hydraopt.bundle.container import INDEX_NAME
from hydraopt.collection.splitting import split
from hydraopt.editing.refresh import refresh
from hydraopt.editing.verbs import remove, rename, replace
from hydraopt.errors import UsageError
from hydraopt.files.url import Url
from hydraopt.runtime.bundles import PlacedBundle
from tests.conftest import write_adapter
from tests.marks import slow
from tests.runtime.conftest import pairs
from tests.serve.conftest import BASE, TASKS, offline, plain, until
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


def told(wild: Any, folder: Any, *tasks: str) -> dict[str, str]:
    """What each task says. Not while a server has the model."""
    return {task: offline(wild, folder, task, "go", 9)[0] for task in tasks}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["index", slow("no index"), "core"])
def test_a_replaced_task_is_answered_as_it_is_now(
    serve, wild, folder, tmp_path, logged, how
) -> None:
    if how == "no index":
        (folder / INDEX_NAME).unlink()
    place = next(folder.glob("*.core.*")) if how == "core" else folder
    right, found = [told(wild, folder, *TASKS)], []
    with begun(serve, place) as running:
        for i in range(2):  # what was looked for again may be replaced again
            replace(folder, write_adapter(tmp_path / "de", pairs(20 + i, 3)))
            shutil.copytree(folder, tmp_path / str(i))
            found.append({task: said(running, task) for task in TASKS})
        assert names(running) == [BASE, *TASKS]
    right += [told(wild, tmp_path / str(i), *TASKS) for i in range(2)]
    assert found == right[1:]
    assert len({x["de"] for x in right}) == 3
    assert len({x["fr"] for x in right}) == 1
    assert logged.records == []


@pytest.mark.slow
@pytest.mark.parametrize("how", ["index", slow("no index")])
def test_a_task_that_was_removed_is_404(serve, wild, folder, logged, how) -> None:
    if how == "no index":
        (folder / INDEX_NAME).unlink()
    right = told(wild, folder, "fr")["fr"]
    with begun(serve, folder) as running:
        remove(folder, ["de"])
        rename(folder, "en", "nl")
        for task in ("de", "en"):
            assert refused(running, task).status_code == 404
        assert names(running) == [BASE, "es", "fr"]
        assert said(running, "fr") == right
        assert plain(f"{running.address}/reload", {}).status == 200
        assert names(running) == [BASE, "es", "fr", "nl"]
    lines = [x.getMessage() for x in logged.records if x.levelno >= logging.WARNING]
    assert [x.partition(":")[0] for x in lines] == ["no answer of 'de'", "no answer of 'en'"]
    assert not any(x.exc_info for x in logged.records)


@pytest.mark.slow
def test_another_core_is_taken_by_a_reload(serve, wild, folder, logged) -> None:
    with begun(serve, folder) as running:
        refresh(folder, error=0.2)
        for task in TASKS[:2]:
            error = refused(running, task)
            assert (error.status_code, error.code) == (503, "bundle_unreadable")
            assert error.response.headers["retry-after"]
            assert "POST /reload" in str(error)
            assert str(folder.parent) not in str(error)
        assert names(running) == [BASE, *TASKS]
        assert len(logged.records) == 2
        assert all(x.exc_info is None for x in logged.records)
        assert plain(f"{running.address}/reload", {}).status == 200
        found = {task: said(running, task) for task in TASKS}
    assert found == told(wild, folder, *TASKS)


def test_a_folder_that_is_gone_is_503(serve, folder) -> None:
    with begun(serve, folder) as running:
        folder.rename(folder.with_name("elsewhere"))
        assert refused(running, "de").status_code == 503
        folder.with_name("elsewhere").rename(folder)
        assert said(running, "de")
        assert names(running) == [BASE, *TASKS]


def test_a_new_file_that_cannot_be_served_is_taken_by_nobody(
    serve, wild, folder, others, monkeypatch
) -> None:
    with begun(serve, folder) as running:
        replace(folder, others[:1])
        with monkeypatch.context() as patch:

            def no(*_: Any) -> None:
                raise UsageError("it has saved heads")

            patch.setattr(PlacedBundle, "check", no)
            assert refused(running, "de").status_code == 500
        found = said(running, "de")
    assert found == told(wild, folder, "de")["de"]


@pytest.mark.slow
def test_an_answer_is_of_one_task_to_its_end(serve, wild, folder, others) -> None:
    """Its row is under way when a request after it has the replaced task looked for."""
    with begun(serve, folder) as running, ThreadPoolExecutor(3) as pool:
        engine, step, together = running.engine, running.engine._step, threading.Event()

        def held() -> None:
            if not together.is_set():
                until(lambda: engine.load()["waiting"] == 3, 60)
                together.set()
            step()

        engine._step = held
        stream = complete(running.client(), "de", "go", max_tokens=900, stream=True)
        until(lambda: engine.load()["running"] == 1)
        replace(folder, others)
        asked = {}
        for i, task in enumerate(("en", "fr", "de")):
            asked[task] = pool.submit(said, running, task)
            until(lambda i=i: together.is_set() or engine.load()["waiting"] == i + 1)
        with pytest.raises(openai.APIError):
            list(stream)
        found = {task: x.result() for task, x in asked.items()}
    assert found == told(wild, folder, *asked)


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An address in a store of which nothing is kept here but what the cache keeps."""
    monkeypatch.setenv("HYDRAOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HYDRAOPT_CACHE_SIZE", "0")
    monkeypatch.setattr("hydraopt.files.ranges.AHEAD", 64)
    return f"memory://served/{tmp_path.name}"


@pytest.mark.slow
@pytest.mark.parametrize("cached", [True, False])
def test_a_folder_of_a_store_is_as_it_is_now_but_for_what_is_kept_here(
    serve, wild, bundle_of, others, stored, monkeypatch, cached
) -> None:
    if cached:
        monkeypatch.setenv("HYDRAOPT_CACHE_SIZE", "100MB")
    place = Url(f"{stored}/")
    split(bundle_of("all"), place)
    before = told(wild, place, "de")["de"]
    with begun(serve, place) as running:
        replace(place, others[:1])
        found = said(running, "de")
        remove(place, ["en"])
        if not cached:
            assert refused(running, "en").status_code == 404
        assert plain(f"{running.address}/reload", {}).status == 200
        again = said(running, "de")
    now = told(wild, place, "de")["de"]
    assert now != before
    assert (found, again) == (before if cached else now, now)


def test_one_file_of_a_store_that_is_replaced_is_503(serve, bundle_of, stored) -> None:
    import fsspec

    place, files = Url(f"{stored}.hydra.safetensors"), fsspec.filesystem("memory")
    files.pipe(str(place), bundle_of("all").read_bytes())
    with begun(serve, place) as running:
        files.pipe(str(place), bundle_of("two-sided").read_bytes())
        assert refused(running, "de").status_code == 503
        assert plain(f"{running.address}/reload", {}).status == 200
        assert said(running, "de")
