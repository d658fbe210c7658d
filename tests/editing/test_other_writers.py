"""What comes in the place of a collection, or of its files, while somebody changes it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hydraopt import merge
from hydraopt.bundle import collection_at, join, open_bundle, split
from hydraopt.errors import LockedError, UsageError
from hydraopt.merging import add, refresh
from tests.editing.living import all_bytes, state
from tests.raising import raises


@pytest.fixture
def other(adapters: dict[str, Path], tmp_path: Path) -> Path:
    """A bundle of a and e."""
    path = tmp_path / "other" / "two.hydra.safetensors"
    path.parent.mkdir()
    merge([adapters["a"], adapters["e"]], path, error=0.3)
    return path


def test_a_held_file_is_not_written_over(
    one_file: Path, other: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    split(one_file, tmp_path / "parts")
    before = state(one_file)
    acts: list[Callable[[], object]] = [
        lambda: merge([adapters["a"], adapters["b"]], one_file, error=0.3),
        lambda: join([tmp_path / "parts"], one_file),
        lambda: refresh(other, one_file),
    ]
    with collection_at(one_file).locked():
        for act in acts:
            with raises(LockedError, file="four.hydra.safetensors"):
                act()
    assert state(one_file) == before
    for act in acts:
        act()


def test_a_held_folder_is_not_written_over(one_file: Path, other: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    split(one_file, parts)
    before = state(parts)
    split(other, tmp_path / "others")
    with collection_at(parts).locked():
        with pytest.raises(LockedError):
            split(one_file, parts, overwrite=True)
        with pytest.raises(LockedError):
            refresh(tmp_path / "others", parts, force=True)
    assert state(parts) == before
    split(one_file, parts, overwrite=True)
    assert state(parts) == before


def test_what_is_put_there_without_a_lock_stays(
    four: Path, other: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    """As cp does it, between the coding of a task and its writing."""
    if four.is_dir():
        split(other, tmp_path / "others")
    core = next(four.glob("*.core.safetensors")) if four.is_dir() else four
    source = next((tmp_path / "others").glob("*.core.safetensors")) if four.is_dir() else other

    def copied(*_: object) -> None:
        if core.read_bytes() != source.read_bytes():
            core.unlink()
            shutil.copy(source, core)

    before = {k: v for k, v in state(four).items() if k != core.name}
    with pytest.raises(LockedError):
        add(four, [adapters["e"]], progress=copied)
    assert core.read_bytes() == source.read_bytes()
    assert {k: v for k, v in state(four).items() if k != core.name} == before


def test_two_cores_of_one_folder_have_one_writer(
    one_file: Path, other: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    """Names of task files are the folder's, so two writers could take the same."""
    folder = tmp_path / "both"
    split(one_file, folder)
    split(other, tmp_path / "others")
    core = next((tmp_path / "others").glob("*.core.safetensors"))
    shutil.copy(core, folder / core.name)
    cores = sorted(folder.glob("*.core.safetensors"))
    with collection_at(cores[0]).locked(), pytest.raises(LockedError):
        add(cores[1], [adapters["f"]])


def test_a_split_deletes_no_task_that_came_later(
    one_file: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "parts"
    split(one_file, folder)
    add(folder, [adapters["e"]])
    before = state(folder)
    with raises(UsageError, file="parts", got="e"):
        split(one_file, folder, overwrite=True)
    assert state(folder) == before
    # A file that nobody can read is no task of anybody.
    next(folder.glob("e*.task.safetensors")).write_bytes(b"broken")
    split(one_file, folder, overwrite=True)
    assert set(open_bundle(folder)) == set("abcd")


def test_a_folder_that_is_the_working_directory_keeps_its_place(
    one_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "parts"
    split(one_file, folder)
    before = state(folder)
    monkeypatch.chdir(folder)
    split(one_file, ".", overwrite=True)
    assert state(Path(".")) == before
    refresh(".", error=0.4)
    assert set(state(Path("."))) == set(before)


def test_a_refresh_ends_where_another_bundle_came_in_its_place(
    one_file: Path, other: Path, tmp_path: Path
) -> None:
    def copied(*_: object) -> None:
        if one_file.read_bytes() != other.read_bytes():
            one_file.unlink()
            shutil.copy(other, one_file)

    with raises(LockedError, file="four.hydra.safetensors"):
        refresh(one_file, error=0.4, progress=copied)
    assert one_file.read_bytes() == other.read_bytes()


def test_an_output_is_none_of_what_is_read(
    one_file: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    folder, own = tmp_path / "parts", tmp_path / "own"
    split(one_file, folder)
    before = state(folder)
    for part in (*folder.glob("*.task.safetensors"), *folder.glob("*.core.safetensors")):
        with pytest.raises(UsageError):
            join([folder], part)
        with pytest.raises(UsageError):
            join(sorted(folder.glob("*.safetensors")), part)
    with raises(UsageError, got="no paths"):
        join([], tmp_path / "x")
    assert state(folder) == before
    shutil.copytree(adapters["a"], own)
    weights = own / "adapter_model.safetensors"
    kept = weights.read_bytes()
    with raises(UsageError, file="adapter_model.safetensors"):
        refresh(one_file, weights, adapters=[f"a={own}"])
    assert weights.read_bytes() == kept
    join([folder], folder / "whole.hydra.safetensors")
    assert all_bytes(folder / "whole.hydra.safetensors") == all_bytes(one_file)
