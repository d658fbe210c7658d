"""A folder of core and tasks: what a change reads and writes, and renames that were killed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hydraopt import open_bundle
from hydraopt.bundle.splitting import join, split
from hydraopt.collection.verbs import add, remove, rename, replace
from hydraopt.errors import BundleFormatError, TaskNotFoundError
from tests.collection.living import state

DAY = "2026-03-01"


@pytest.fixture
def folder(merged: Path, tmp_path: Path) -> Path:
    split(merged, tmp_path / "folder")
    return tmp_path / "folder"


def test_it_is_what_the_file_would_be(
    folder: Path, one_file: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    for path in (folder, one_file):
        add(path, [adapters["e"], adapters["f"]], day=DAY)
        replace(path, [f"c={adapters['d']}"], day=DAY)
        remove(path, ["b"])
        rename(path, "e", "E")
    join([folder], tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == one_file.read_bytes()


def test_no_other_task_is_read_or_written(folder: Path, adapters: dict[str, Path]) -> None:
    before = state(folder)
    for name in "bcd":
        (folder / f"{name}.task.safetensors").write_bytes(b"not to be read")
    add(folder, [adapters["e"]], day=DAY)
    replace(folder, [f"a={adapters['f']}"], day=DAY)
    rename(folder, "a", "x")
    remove(folder, ["e"])
    after = state(folder)
    assert sorted(set(after) - set(before)) == ["x.task.safetensors"]
    assert sorted(set(before) - set(after)) == ["a.task.safetensors"]
    (core,) = folder.glob("*.core.safetensors")
    assert after[core.name] == before[core.name]
    assert all(after[f"{name}.task.safetensors"] == b"not to be read" for name in "bcd")


def test_the_core_file_stands_for_the_folder(folder: Path, adapters: dict[str, Path]) -> None:
    (core,) = folder.glob("*.core.safetensors")
    add(core, [adapters["e"]], day=DAY)
    assert list(open_bundle(folder)) == list("abcde")


def test_names_that_differ_in_case_have_files_of_their_own(
    folder: Path, adapters: dict[str, Path]
) -> None:
    add(folder, [f"A={adapters['e']}"], day=DAY)
    assert (folder / "A~2.task.safetensors").is_file()
    rename(folder, "A", "B")
    remove(folder, ["a"])
    assert sorted(open_bundle(folder)) == ["B", "b", "c", "d"]
    with pytest.raises(TaskNotFoundError, match="'a'"):
        remove(folder, ["a"])


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_rename_that_was_killed_is_finished(
    folder: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the three steps (journal, row, name) the second one counts."""
    calls = 0

    def dying(act: object) -> object:
        def call(*arguments: object) -> object:
            nonlocal calls
            calls += 1
            if calls == at:
                raise KeyboardInterrupt
            return act(*arguments)  # type: ignore[operator]

        return call

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", dying(os.replace))
        patched.setattr(os, "rename", dying(os.rename))
        with pytest.raises(KeyboardInterrupt):
            rename(folder, "a", "x")
    assert list(open_bundle(folder)) == (["a", "b", "c", "d"] if at < 3 else ["b", "c", "d", "x"])
    remove(folder, ["b"])
    expected = ["a", "c", "d"] if at < 3 else ["c", "d", "x"]
    assert list(open_bundle(folder)) == expected
    names = {f"{name}.task.safetensors" for name in expected}
    assert {path.name for path in folder.iterdir()} == {*names, "four.core.safetensors"}


def test_a_journal_of_nonsense_does_nothing(folder: Path) -> None:
    (folder.parent / "a.task.safetensors").write_text("mine")
    for text in ("", "[]", '{"task": "a", "from": "../a.task.safetensors", "to": "y"}', "\xff"):
        (folder / ".renaming.json").write_text(text, encoding="latin-1")
        rename(folder, "a", "x")
        rename(folder, "x", "a")
        assert not (folder / ".renaming.json").exists()
    assert list(open_bundle(folder)) == list("abcd")
    assert (folder.parent / "a.task.safetensors").read_text() == "mine"


def test_a_folder_without_a_core_is_refused(tmp_path: Path, adapters: dict[str, Path]) -> None:
    with pytest.raises(BundleFormatError, match="a folder without a core file"):
        add(tmp_path, [adapters["e"]])
    assert [x for x in tmp_path.iterdir() if x.is_file()] == []
