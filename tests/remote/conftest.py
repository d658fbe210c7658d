"""A cache and short waits of each test's own; the stores that bundles are put into."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from hydraopt import merge
from hydraopt.bundle import split
from hydraopt.files import INDEX_NAME, stores
from tests.conftest import write_adapter
from tests.marks import slow
from tests.merging.merge_cases import modules_of
from tests.remote.servers import Web, s3_server, web_server

NAMES = ("a", "b", "c", "d")

_numbers = itertools.count()


STORES = pytest.mark.parametrize("bucket", ["memory", slow("s3")], indirect=True)
"""For behaviour in which S3 may differ from memory."""


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRAOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HYDRAOPT_CACHE_SIZE", raising=False)
    monkeypatch.setattr(stores, "WAITS", [0.0, 0.0, 0.0])


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four, of which d carries integers; and e, which is in no bundle."""
    folder = tmp_path_factory.mktemp("adapters")
    made = {}
    for seed, name in enumerate((*NAMES, "e")):
        extras = {"base_model.model.buffer": np.arange(200)} if name == "d" else {}
        made[name] = write_adapter(folder / name, modules_of(seed), extras=extras)
    return made


@pytest.fixture(scope="session")
def merged(adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("merged") / "four.hydra.safetensors"
    merge([adapters[name] for name in NAMES], path, error=0.05)
    return path


@pytest.fixture(scope="session")
def apart(merged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a folder of a core and task files."""
    folder = tmp_path_factory.mktemp("apart") / "four"
    split(merged, folder)
    return folder


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    folder = tmp_path / "served"
    folder.mkdir()
    with web_server(folder) as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """An S3 server's address."""
    with s3_server() as address:
        yield address


@pytest.fixture(params=["memory", slow("s3")])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty folder in each store that can be written, as an address without a last slash."""
    name = f"bucket-{next(_numbers)}"
    if request.param == "memory":
        yield f"memory://{name}"
        return
    for key, value in {
        "AWS_ENDPOINT_URL": request.getfixturevalue("s3"),
        "AWS_ACCESS_KEY_ID": "a-key",
        "AWS_SECRET_ACCESS_KEY": "a-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    # One that another test had made without these settings would be taken again.
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    system = fsspec.filesystem("s3")
    system.mkdir(name)
    yield f"s3://{name}"
    type(system).clear_instance_cache()


@pytest.fixture
def upload() -> Callable[[Path, str], None]:
    """Copy a file or a folder to an address."""

    def copy(path: Path, address: str) -> None:
        files = [path] if path.is_file() else sorted(x for x in path.rglob("*") if x.is_file())
        for file in files:
            inner = "" if path.is_file() else f"/{file.relative_to(path).as_posix()}"
            system, where = fsspec.core.url_to_fs(address + inner)
            system.pipe_file(where, file.read_bytes())

    return copy


@pytest.fixture
def content() -> Callable[[str], dict[str, bytes]]:
    """The objects under an address, by name, but for indices, which have the tags of the others."""

    def read(address: str) -> dict[str, bytes]:
        system, where = fsspec.core.url_to_fs(address)
        system.invalidate_cache()
        paths: list[Any] = system.find(where)
        start = len(system._strip_protocol(address).rstrip("/")) + 1
        kept = (str(path) for path in paths if not str(path).endswith(INDEX_NAME))
        return {path[start:]: system.cat_file(path) for path in kept}

    return read


@pytest.fixture(params=["file", "folder"])
def both(request: pytest.FixtureRequest, merged: Path, apart: Path, tmp_path: Path) -> Path:
    """A collection of a, b, c and d on this machine, of each kind, to be changed."""
    if request.param == "file":
        return Path(shutil.copy(merged, tmp_path / merged.name))
    return Path(shutil.copytree(apart, tmp_path / "four"))


def at_address(local: Path, bucket: str, upload: Callable[[Path, str], None]) -> str:
    address = f"{bucket}/{local.name}"
    upload(local, address)
    return address
