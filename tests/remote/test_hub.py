"""Bundles on the Hugging Face hub, at a stand-in for its endpoints."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, constants

from hydraopt import merge, open_bundle, push_to_hub
from hydraopt.bundle import is_bundle, split
from hydraopt.errors import BundleFormatError, NotThereError, RemoteError, UsageError
from hydraopt.files import Url, store_of
from hydraopt.merging import remove
from tests.raising import raises
from tests.remote.conftest import NAMES
from tests.remote.hub import Hub, hub_server

NAME = "four.hydra.safetensors"
HOME = "owner/four"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_server() as server:
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield server


@pytest.fixture
def holding(hub: Hub, merged: Path) -> Hub:
    """A hub with the bundle in one file in a repository."""
    hub.repositories[HOME] = [{"README.md": b"# four", NAME: merged.read_bytes()}]
    return hub


def test_a_repository_opens_by_its_name(holding: Hub, merged: Path) -> None:
    bundle = open_bundle(f"hf://{HOME}", tasks=["b"])
    assert is_bundle(f"hf://{HOME}")
    assert list(bundle) == list(NAMES)
    there, here = bundle["b"].factors(), open_bundle(merged)["b"].factors()
    for path, pair in here.items():
        assert (there[path].B.tobytes(), there[path].A.tobytes()) == (
            pair.B.tobytes(),
            pair.A.tobytes(),
        )


def test_a_range_costs_its_own_bytes_and_one_request(hub: Hub) -> None:
    data = bytes(range(256)) * 1000
    hub.repositories[HOME] = [{"x.bin": data}]
    url = Url(f"hf://{HOME}/x.bin")
    store = store_of(url)
    mark = store.mark(url)
    hub.requests.clear()
    assert store.read(url, 1000, 100, mark) == data[1000:1100]
    assert hub.sent == 100
    assert hub.requests == [f"GET /{HOME}/resolve/main/x.bin"]
    hub.repositories[HOME].append({"x.bin": data[:50]})
    with pytest.raises(RemoteError):
        store.read(url, 1000, 100, mark)


def test_one_task_of_a_folder_is_read_without_the_others(holding: Hub, apart: Path) -> None:
    holding.repositories[HOME].append({x.name: x.read_bytes() for x in apart.iterdir()})
    bundle = open_bundle(f"hf://{HOME}", tasks=["b"])
    assert bundle["b"].factors()
    read = {x.rpartition("/")[2] for x in holding.requests if "/resolve/" in x}
    assert [x for x in read if x.endswith(".task.safetensors")] == ["b.task.safetensors"]


@pytest.mark.slow
def test_a_file_of_a_repository_opens_at_every_revision(holding: Hub, apart: Path) -> None:
    first = holding.head(HOME)
    holding.repositories[HOME].append({})
    with pytest.raises(NotThereError):
        open_bundle(f"hf://{HOME}/{NAME}")
    for address in (f"hf://{HOME}@{first}", f"hf://{HOME}@{first}/{NAME}"):
        assert list(open_bundle(address)) == list(NAMES)
    holding.repositories[HOME].append({x.name: x.read_bytes() for x in apart.iterdir()})
    assert list(open_bundle(f"hf://{HOME}")) == list(NAMES)


@pytest.mark.parametrize(
    "address",
    [f"hf://{HOME}/none.hydra.safetensors", f"hf://{HOME}@none", "hf://owner/none"],
)
def test_what_is_missing_is_not_there(holding: Hub, address: str) -> None:
    with pytest.raises(NotThereError):
        open_bundle(address)


def test_a_private_repository_needs_the_token(
    holding: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    holding.private.add(HOME)
    with pytest.raises(NotThereError) as caught:
        open_bundle(f"hf://{HOME}")
    assert "HF_TOKEN" in str(caught.value.do)
    monkeypatch.setenv("HF_TOKEN", holding.token)
    assert list(open_bundle(f"hf://{HOME}")) == list(NAMES)


def test_several_bundles_in_a_repository_are_told_apart_by_name(holding: Hub) -> None:
    files = holding.repositories[HOME][-1]
    files["other.hydra.safetensors"] = files[NAME]
    with raises(BundleFormatError, got=f"{NAME}, other.hydra.safetensors"):
        open_bundle(f"hf://{HOME}")
    assert list(open_bundle(f"hf://{HOME}/other.hydra.safetensors")) == list(NAMES)


def test_a_pushed_bundle_comes_with_its_card_in_one_commit(
    hub: Hub, merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = push_to_hub(merged, HOME, private=True, token=hub.token)
    assert hub.private == {HOME}
    assert address == f"hf://{HOME}@{hub.head(HOME)}"
    assert len(hub.repositories[HOME]) == 2  # the empty repository and the commit
    files = hub.repositories[HOME][-1]
    assert set(files) == {"README.md", NAME}
    assert files[NAME] == merged.read_bytes()
    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "hydraopt"
    assert {"hydraopt", "lora"} <= set(card.data.tags)
    assert card.data.base_model == open_bundle(merged).base_model
    assert f"hydraopt export hf://{HOME} " in card.text
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert list(open_bundle(address)) == list(NAMES)


@pytest.mark.slow
def test_a_pushed_folder_takes_the_place_of_an_older_one(
    hub: Hub, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "four"
    split(merged, folder)
    push_to_hub(folder, HOME, private=True, token=hub.token)
    hub.repositories[HOME][-1]["notes.txt"] = b"mine"
    remove(folder, ["b"])
    address = push_to_hub(folder, HOME, token=hub.token, message="Without b")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert "notes.txt" in hub.repositories[HOME][-1]
    assert list(open_bundle(address)) == ["a", "c", "d"]
    assert list(open_bundle(f"hf://{HOME}")) == ["a", "c", "d"]


@pytest.mark.slow
def test_a_card_is_renewed_unless_another_wrote_it(hub: Hub, merged: Path) -> None:
    push_to_hub(merged, HOME, private=True, token=hub.token)
    card = hub.repositories[HOME][-1]["README.md"]
    hub.repositories[HOME][-1]["README.md"] = card + b"old"
    push_to_hub(merged, HOME, token=hub.token)
    assert hub.repositories[HOME][-1]["README.md"] == card
    hub.repositories[HOME][-1]["README.md"] = b"# mine"
    push_to_hub(merged, HOME, token=hub.token)
    assert hub.repositories[HOME][-1]["README.md"] == b"# mine"


@pytest.mark.slow
def test_a_merge_reads_adapters_from_the_hub_and_writes_there(
    holding: Hub, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        files = {x.name: x.read_bytes() for x in adapters[name].iterdir()}
        holding.repositories[f"owner/{name}"] = [files]
    monkeypatch.setenv("HF_TOKEN", holding.token)
    address = f"hf://{HOME}/new.hydra.safetensors"
    merge(["hf://owner/a", "hf://owner/b"], address, error=0.05)
    assert list(open_bundle(address)) == ["a", "b"]


def test_a_wrong_token_is_refused(hub: Hub, merged: Path) -> None:
    with pytest.raises(RemoteError):
        push_to_hub(merged, HOME, token="hf_wrong")
    assert HOME not in hub.repositories


def test_what_cannot_be_pushed_is_refused_before_anything_is_made(
    hub: Hub, merged: Path, tmp_path: Path
) -> None:
    for repository in ("four", "owner/four/x", f"{HOME}@main", ""):
        with pytest.raises(UsageError):
            push_to_hub(merged, repository, token=hub.token)
    with pytest.raises(UsageError):
        push_to_hub(f"hf://{HOME}", "owner/copy", token=hub.token)
    damaged = Path(shutil.copy(merged, tmp_path / NAME))
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(BundleFormatError):
        push_to_hub(damaged, HOME, token=hub.token)
    assert hub.repositories == {}
