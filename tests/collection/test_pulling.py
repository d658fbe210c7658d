"""What is pulled into a folder that has tasks already: each task keeps one file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hydraopt import merge, open_bundle, verify_bundle
from hydraopt.bundle import pull, pulling, split
from hydraopt.errors import LockedError, TaskNotFoundError, UsageError
from hydraopt.files import locked, locked_folder
from tests.conftest import write_adapter
from tests.merging.merge_cases import modules_of
from tests.raising import raises

NAMES = ["A", "a", "b"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("made")
    adapters = [write_adapter(made / f"t{i}", modules_of(i)) for i in range(3)]
    path = made / "x.hydra.safetensors"
    merge([f"{name}={x}" for name, x in zip(NAMES, adapters, strict=True)], path, error=0.2)
    return made


@pytest.fixture
def whole(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "x.hydra.safetensors"


@pytest.fixture(params=["one file", "folder"])
def bundle(request, whole: Path, tmp_path: Path) -> Path:
    if request.param == "one file":
        return whole
    split(whole, tmp_path / "apart")
    return tmp_path / "apart"


def files_of(folder: Path) -> set[str]:
    return {x.name for x in folder.glob("*.task.safetensors")}


def test_a_task_goes_into_the_file_that_it_has_there(bundle: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    first = pull(bundle, here, ["b"])
    assert set(first.files) == set(here.glob("*.safetensors"))
    (here / "b.task.safetensors").rename(here / "mine.task.safetensors")
    done = pull(bundle, here, NAMES)
    assert here / "mine.task.safetensors" in done.files
    assert files_of(here) == {"A.task.safetensors", "a~2.task.safetensors", "mine.task.safetensors"}
    assert list(open_bundle(here)) == NAMES
    assert verify_bundle(here).ok


def test_a_task_is_there_whatever_its_file_is_called(whole: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    split(whole, here)
    (here / "b.task.safetensors").rename(here / "mine.task.safetensors")
    assert list(open_bundle(here, tasks=["b"])) == ["b"]
    core = here / "x.core.safetensors"
    assert list(open_bundle(core, tasks=["A", "b"])) == ["A", "b"]
    (here / "a~2.task.safetensors").write_bytes(b"broken")
    for missing in ("c", "b"):
        with pytest.raises(TaskNotFoundError):
            open_bundle(here, tasks=[missing])


def test_no_task_takes_the_file_of_another(bundle: Path, tmp_path: Path) -> None:
    """Also where a file system takes both names for one."""
    here = tmp_path / "here"
    pull(bundle, here, ["A"])
    (here / "A.task.safetensors").rename(here / "B.task.safetensors")
    pull(bundle, here, ["b"])
    assert files_of(here) == {"B.task.safetensors", "b~2.task.safetensors"}
    assert list(open_bundle(here)) == ["A", "b"]


def test_a_folder_with_a_file_of_another_core_is_refused(bundle: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    pull(bundle, here, ["A"])
    other = tmp_path / "other.hydra.safetensors"
    merge([f"b={tmp_path / 't2'}"], other, error=0.3)
    split(other, tmp_path / "strange")
    (tmp_path / "strange" / "b.task.safetensors").rename(here / "b.task.safetensors")
    before = {x.name: x.read_bytes() for x in here.iterdir()}
    with raises(UsageError, file="b.task.safetensors"):
        pull(bundle, here, ["b"])
    assert {x.name: x.read_bytes() for x in here.iterdir()} == before


def test_a_broken_file_is_made_anew(bundle: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    pull(bundle, here, NAMES)
    (here / "b.task.safetensors").write_bytes(b"broken")
    pull(bundle, here, ["b"])
    assert verify_bundle(here).ok
    assert list(open_bundle(here)) == NAMES


def contents(folder: Path) -> dict[str, bytes]:
    return {x.name: x.read_bytes() for x in folder.iterdir() if not x.name.endswith(".lock")}


def test_a_folder_that_somebody_changes_is_left_alone(bundle: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    pull(bundle, here, ["b"])
    before = contents(here)
    with locked_folder(here):
        with raises(LockedError, file="here"):
            pull(bundle, here, ["a"])
        assert contents(here) == before
    pull(bundle, here, ["a"])
    assert list(open_bundle(here)) == ["a", "b"]


def test_nobody_changes_a_folder_while_files_are_pulled_into_it(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the look at its core, which a new folder does not have, to its index."""
    here, seen = tmp_path / "new" / "here", []

    def refused(act: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with pytest.raises(LockedError), locked_folder(here):
                pass
            seen.append(act.__name__)
            return act(*arguments)

        return call

    for name in ("_fitting", "write_atomically", "renew_index"):
        monkeypatch.setattr(pulling, name, refused(getattr(pulling, name)))
    pull(bundle, here, ["A", "b"])
    assert seen == ["_fitting", *["write_atomically"] * 3, "renew_index"]
    assert list(open_bundle(here)) == ["A", "b"]
    assert ".tasks.lock" not in os.listdir(here)


def test_a_file_that_somebody_changes_is_not_pulled_over(whole: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    pull(whole, here)
    (here / whole.name).write_bytes(b"changed")
    with locked(here / whole.name), pytest.raises(LockedError):
        pull(whole, here)
    assert contents(here) == {whole.name: b"changed"}
    pull(whole, here)
    assert contents(here) == {whole.name: whole.read_bytes()}
