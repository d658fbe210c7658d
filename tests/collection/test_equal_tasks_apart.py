"""Tasks of equal bytes in a folder: each has a file of its own, and every file counts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hydraopt import merge, open_bundle, verify_bundle
from hydraopt.bundle import pull, split
from hydraopt.errors import ChecksumError, UsageError
from hydraopt.files import INDEX_NAME
from tests.conftest import write_adapter
from tests.merging.merge_cases import modules_of
from tests.raising import raises

NAMES = ["one", "three", "two"]


@pytest.fixture(scope="module", params=["error", "lossless"])
def made(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("made")
    first, third = (write_adapter(made / f"t{i}", modules_of(i)) for i in (0, 3))
    how = {"lossless": True} if request.param == "lossless" else {"error": 0.2}
    whole = made / "x.hydra.safetensors"
    merge([f"one={first}", f"two={first}", f"three={third}"], whole, **how)
    split(whole, made / "apart")
    return made


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "apart"


def without_index(folder: Path) -> Path:
    for file in folder.iterdir():
        if not file.name.endswith(".safetensors"):
            file.unlink()
    return folder


@pytest.mark.parametrize("indexed", [True, False])
def test_all_are_pulled(folder: Path, tmp_path: Path, indexed: bool) -> None:
    there = folder if indexed else without_index(folder)
    done = pull(there, tmp_path / "pulled")
    assert list(done.tasks) == NAMES
    assert {x.name for x in done.files} == {
        "x.core.safetensors", INDEX_NAME, *(f"{name}.task.safetensors" for name in NAMES)
    }  # fmt: skip
    assert list(open_bundle(tmp_path / "pulled")) == NAMES


def test_a_folder_is_pulled_from_within(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    assert list(pull(".", tmp_path / "pulled").tasks) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_damage_of_any_is_found(folder: Path, name: str) -> None:
    assert verify_bundle(folder).ok
    file = folder / f"{name}.task.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    report = verify_bundle(folder)
    assert not report.ok
    assert f"{name}.task.safetensors" in report.problems[0]
    with pytest.raises(ChecksumError):
        open_bundle(folder).sha256()


def test_nothing_is_written_for_such_a_name(folder: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "a\\b.hydra.safetensors"
    (tmp_path / "x.hydra.safetensors").rename(bundle)
    for tasks in (None, ["one"]):
        with raises(UsageError, file="a\\b.hydra.safetensors", got="'a\\\\b.hydra.safetensors'"):
            pull(bundle, tmp_path / "pulled", tasks)
    assert not (tmp_path / "pulled").exists()
