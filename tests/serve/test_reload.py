"""A bundle that is replaced or deleted under the server: the old one goes on until it is told."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from hydraopt import merge
from hydraopt.errors import UsageError
from hydraopt.serve.bundles import PlacedBundle
from tests.conftest import write_adapter
from tests.marks import slow
from tests.runtime.conftest import pairs
from tests.serve.conftest import BASE, TASKS, offline, plain, until
from tests.serve.test_server import complete, held


@pytest.fixture
def place(bundle_of: Callable[[str], Path], tmp_path: Path) -> Path:
    """A bundle of its own to be done with as one likes."""
    return Path(shutil.copy(bundle_of("all"), tmp_path / "served.hydra.safetensors"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with another "de", and with "nl"."""
    folder = tmp_path_factory.mktemp("other")
    adapters = [
        write_adapter(folder / name, pairs(9 + i, 3)) for i, name in enumerate(("de", "nl"))
    ]
    merge(adapters, folder / "other.hydra.safetensors", error=0.05, workers=1)
    return folder / "other.hydra.safetensors"


def exchange(new: Path, place: Path) -> None:
    """As whoever replaces a file in one step."""
    shutil.copy(new, place.with_suffix(".new"))
    place.with_suffix(".new").replace(place)


def names(running: Any) -> list[str]:
    return [x.id for x in running.client().models.list()]


@pytest.mark.parametrize("how", ["replaced", slow("deleted"), "written over"])
def test_the_old_bundle_goes_on(serve, wild, bundle_of, other, place, how) -> None:
    """Heads are not kept (cache_bytes=0), so that every request reads from the file."""
    with serve(bundle=place) as running:
        right = {x: offline(wild, bundle_of("all"), x, "go", 9)[0] for x in TASKS}
        assert complete(running.client(), "de", "go", max_tokens=9).choices[0].text == right["de"]
        if how == "replaced":
            exchange(other, place)
        elif how == "deleted":
            place.unlink()
        else:  # the only file there is loses its bytes
            place.write_bytes(bytes(place.stat().st_size))
        for task in TASKS[1:]:
            if how == "written over":
                with pytest.raises(openai.InternalServerError) as caught:
                    complete(running.client(), task, "go", max_tokens=9)
                assert caught.value.status_code == 503
                assert caught.value.code == "bundle_unreadable"
                assert str(place.parent) not in str(caught.value)
            else:
                reply = complete(running.client(), task, "go", max_tokens=9)
                assert reply.choices[0].text == right[task]
        assert complete(running.client(), BASE).choices


def test_reload_takes_the_new_one(serve, wild, other, place) -> None:
    right = {task: offline(wild, other, task, "go", 9)[0] for task in ("de", "nl")}
    with serve(bundle=place) as running:
        assert names(running) == [BASE, *TASKS]
        exchange(other, place)
        assert names(running) == [BASE, *TASKS]
        reply = plain(f"{running.address}/reload", {})
        assert reply.status == 200
        assert [x["id"] for x in reply.json()["data"]] == [BASE, "de", "nl"] == names(running)
        for task in ("de", "nl"):
            text = complete(running.client(), task, "go", max_tokens=9).choices[0].text
            assert text == right[task]
        with pytest.raises(openai.NotFoundError, match="'fr'"):
            complete(running.client(), "fr")
        assert not running.engine._retired


def test_requests_under_way_end_on_the_old_one(serve, wild, bundle_of, other, place) -> None:
    old = offline(wild, bundle_of("all"), "de", "go", 24)[0]
    new = offline(wild, other, "de", "go", 24)[0]
    assert old != new
    with serve(bundle=place) as running, ThreadPoolExecutor(1) as pool:
        client = running.client()
        with held(running.engine):
            stream = complete(client, "de", "go", max_tokens=24, stream=True)
            first = next(iter(stream))  # comes before the prompt is read
            until(lambda: running.engine.load()["running"] == 1)
            exchange(other, place)
            assert plain(f"{running.address}/reload", {}).status == 200
            assert running.engine.load()["running"] == 1
            # Both in one batch, each with its own task of that name.
            late = pool.submit(complete, client, "de", "go", max_tokens=24)
            until(lambda: running.engine.load()["running"] == 2)
        text = first.choices[0].text + "".join(x.choices[0].text for x in stream if x.choices)
        assert (text, late.result().choices[0].text) == (old, new)
        until(lambda: not running.engine._retired)


@pytest.mark.slow
def test_reload_under_requests_never_mixes(serve, wild, bundle_of, other, place) -> None:
    right = {offline(wild, x, "de", "go", 9)[0] for x in (bundle_of("all"), other)}
    assert len(right) == 2
    found: list[str] = []
    stop = threading.Event()
    failed: list[Exception] = []

    def ask(client: Any) -> None:
        while not stop.is_set():
            try:
                found.append(complete(client, "de", "go", max_tokens=9).choices[0].text)
            except Exception as error:
                failed.append(error)

    with serve(bundle=place) as running:
        threads = [threading.Thread(target=ask, args=(running.client(),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for i in range(4):
            exchange(other if i % 2 == 0 else bundle_of("all"), place)
            assert plain(f"{running.address}/reload", {}).status == 200
            before = len(found)
            until(lambda before=before: len(found) > before + 5)
        stop.set()
        for thread in threads:
            thread.join()
    assert failed == []
    assert set(found) == right


@pytest.mark.parametrize(
    "broken", ["gone", "cut", "no bundle", "another model's", "the base's name"]
)
def test_a_broken_file_leaves_the_old_one_in_service(
    serve, wild, bundle_of, place, tmp_path, broken
) -> None:
    right = offline(wild, bundle_of("all"), "fr", "go", 9)[0]
    with serve(bundle=place) as running:
        if broken == "gone":
            place.unlink()
        elif broken == "cut":
            (tmp_path / "cut").write_bytes(place.read_bytes()[:-100])
            (tmp_path / "cut").replace(place)
        elif broken == "no bundle":
            (tmp_path / "no").write_bytes(b"x" * 100)
            (tmp_path / "no").replace(place)
        else:
            layer = {
                "model.layers.7.self_attn.q_proj": pairs(0, 3)["model.layers.0.self_attn.q_proj"]
            }
            told = broken == "the base's name"
            made = [
                write_adapter(tmp_path / (BASE if told else "a"), pairs(1, 2) if told else layer),
                write_adapter(tmp_path / "b", pairs(2, 2) if told else layer),
            ]
            merge(made, tmp_path / "new", lossless=True)
            (tmp_path / "new").replace(place)
        reply = plain(f"{running.address}/reload", {})
        assert reply.status == 409
        error = reply.json()["error"]
        assert error["code"] == "reload_refused"
        assert "stay in service" in error["message"]
        assert str(place.parent) not in reply.text
        assert names(running) == [BASE, *TASKS]
        text = complete(running.client(), "fr", "go", max_tokens=9).choices[0].text
        assert text == right
        # No hook of the refused one is left.
        assert len(wild[0].model.layers[0].self_attn.q_proj._forward_hooks) == 1


def test_reload_is_no_ones_business(serve, place) -> None:
    with serve(bundle=place, api_key="secret") as running:
        assert plain(f"{running.address}/reload", {}).status == 401
    with serve(bundle=place) as running:
        # A page in a browser may send this without asking.
        assert plain(f"{running.address}/reload", b"", kind="text/plain").status == 415
    with serve() as running:
        assert plain(f"{running.address}/reload", {}).status == 409


def test_a_task_that_cannot_be_answered_with_is_refused(serve, wild, place, other, monkeypatch):
    check = PlacedBundle.check

    def some(self: PlacedBundle, task: Any) -> None:
        if task.name == "nl":
            raise UsageError(f"it has saved heads [file {place}]")
        check(self, task)

    monkeypatch.setattr(PlacedBundle, "check", some)
    with serve(bundle=place) as running:
        exchange(other, place)
        reply = plain(f"{running.address}/reload", {})
        assert reply.status == 409
        assert "task 'nl' cannot be served" in reply.text
        assert str(place.parent) not in reply.text
        assert names(running) == [BASE, *TASKS]
        assert len(wild[0].model.layers[0].self_attn.q_proj._forward_hooks) == 1


def test_a_device_without_room_leaves_the_old_one_in_service(
    serve, place, other, monkeypatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of memory")

    with serve(bundle=place) as running:
        exchange(other, place)
        monkeypatch.setattr("hydraopt.serve.engine.attach", full)
        reply = plain(f"{running.address}/reload", {})
        assert reply.status == 409
        assert "stay in service" in reply.text
        assert names(running) == [BASE, *TASKS]
