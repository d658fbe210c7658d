"""A folder of core and tasks: what a change reads and writes, and renames that were killed."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt import merge, open_bundle
from hydraopt.bundle import Bundle, index as index_file, join, split
from hydraopt.bundle.following import core_of_bundle
from hydraopt.bundle.index import read_index, write_index
from hydraopt.errors import BundleFormatError, TaskNotFoundError, UsageError
from hydraopt.files import INDEX_NAME, files_in
from hydraopt.inspect import listing
from hydraopt.merging import add, remove, rename, replace
from tests.conftest import MakeAdapter
from tests.editing.living import state
from tests.merging.merge_cases import modules_of
from tests.raising import raises

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


def test_what_tasks_of_a_file_share_is_read_once(
    one_file: Path, monkeypatch: pytest.MonkeyPatch, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    extras = {"base_model.model.buffer": np.arange(200)}
    adapters = [make_adapter(tmp_path / f"t{i}", modules_of(i), extras=extras) for i in range(3)]
    merge(adapters, one_file, error=0.2)
    names, real = list[str](), Bundle.read

    def counted(bundle: Bundle, name: str, *given: Any) -> bytes:
        names.append(name)
        return real(bundle, name, *given)

    monkeypatch.setattr(Bundle, "read", counted)
    remove(one_file, ["t0"])
    assert names.count("carried/0") == 1


def test_no_other_task_is_read_or_written(folder: Path, adapters: dict[str, Path]) -> None:
    before = state(folder)
    others = {}
    for name in "bcd":  # of which the name of the task is read, and no more
        file = folder / f"{name}.task.safetensors"
        others[file.name] = file.read_bytes()[:-1] + b"?"
        file.write_bytes(others[file.name])
    add(folder, [adapters["e"]], day=DAY)
    replace(folder, [f"a={adapters['f']}"], day=DAY)
    rename(folder, "a", "x")
    remove(folder, ["e"])
    after = state(folder)
    assert sorted(set(after) - set(before)) == ["x.task.safetensors"]
    assert sorted(set(before) - set(after)) == ["a.task.safetensors"]
    (core,) = folder.glob("*.core.safetensors")
    assert after[core.name] == before[core.name]
    assert all(after[name] == data for name, data in others.items())


def test_a_file_that_was_renamed_by_hand_is_its_task_still(
    folder: Path, adapters: dict[str, Path]
) -> None:
    (folder / "a.task.safetensors").rename(folder / "mine.task.safetensors")
    before = state(folder)
    with raises(UsageError, file="folder", got="a"):
        add(folder, [f"a={adapters['e']}"], day=DAY)
    with raises(UsageError, file="folder", got="a"):
        rename(folder, "b", "a")
    assert state(folder) == before
    replace(folder, [f"a={adapters['e']}"], day=DAY)
    assert set(state(folder)) == set(before)
    rename(folder, "a", "x")
    assert (folder / "x.task.safetensors").is_file()
    (folder / "b.task.safetensors").rename(folder / "c~2.task.safetensors")
    remove(folder, ["b", "x"])
    assert sorted(open_bundle(folder)) == ["c", "d"]


@pytest.mark.parametrize("damage", [b"", b"not to be read", b"\x10" + b"[" * 40])
def test_a_file_that_cannot_be_read_may_have_any_name(
    folder: Path, adapters: dict[str, Path], damage: bytes
) -> None:
    """So nothing new comes in; what there is can go, or be replaced."""
    (folder / "b.task.safetensors").write_bytes(damage)
    before = state(folder)
    for act in (lambda: add(folder, [adapters["e"]]), lambda: rename(folder, "a", "x")):
        with raises(BundleFormatError, file="b.task.safetensors"):
            act()
    assert state(folder) == before
    replace(folder, [f"a={adapters['f']}"], day=DAY)
    remove(folder, ["c"])
    with raises(BundleFormatError, file="b.task.safetensors"):
        remove(folder, ["nothing"])


def test_a_long_head_is_read_as_well(folder: Path, adapters: dict[str, Path]) -> None:
    file = folder / "a.task.safetensors"
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    padded = data[8:end] + b" " * 4096
    file.write_bytes(len(padded).to_bytes(8, "little") + padded + data[end:])
    with raises(UsageError, file="folder", got="a"):
        add(folder, [f"a={adapters['e']}"], day=DAY)
    assert list(open_bundle(folder)) == list("abcd")


def test_hidden_names_count(folder: Path, adapters: dict[str, Path]) -> None:
    done = add(folder, [f".hidden={adapters['e']}"], day=DAY)
    assert (folder / ".hidden.task.safetensors").is_file()
    own = (folder / ".hidden.task.safetensors").stat().st_size
    assert done.size == done.size_before + own == open_bundle(folder).size
    rename(folder, ".hidden", "x")
    assert sorted(open_bundle(folder)) == list("abcdx")


def test_a_folder_is_no_task_file(folder: Path, adapters: dict[str, Path]) -> None:
    (folder / "z.task.safetensors").mkdir()
    for act in (lambda: open_bundle(folder), lambda: add(folder, [adapters["e"]])):
        with raises(BundleFormatError, file="z.task.safetensors"):
            act()


def test_what_killed_writers_left_goes_with_the_next_change(folder: Path) -> None:
    leftovers = [
        folder.with_name(f".{folder.name}.tmp-{'0' * 16}"),
        folder / f".q.task.safetensors.tmp-{'1' * 16}",
    ]
    (leftovers[0] / "new").mkdir(parents=True)
    leftovers[1].write_bytes(b"half")
    others = [folder.with_name(".mine.tmp-0"), folder / ".mine.tmp"]
    for other in others:
        other.write_text("not ours")
    remove(folder, ["a"])
    assert not any(path.exists() for path in leftovers)
    assert all(path.exists() for path in others)


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
    with raises(TaskNotFoundError, file="folder", got="'a'"):
        remove(folder, ["a"])


def test_killed_before_the_index_is_written_it_tells_nothing_wrong(
    folder: Path, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = (
        (lambda: add(folder, [adapters["e"]], day=DAY), "abcde"),
        (lambda: replace(folder, [f"a={adapters['f']}"], day=DAY), "abcde"),
        (lambda: rename(folder, "b", "B"), "Bacde"),
        (lambda: remove(folder, ["c"]), "Bade"),
    )

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for change, names in changes:
        old = (folder / INDEX_NAME).read_bytes()
        with monkeypatch.context() as patched:
            patched.setattr("hydraopt.bundle.index.write_index", killed)
            with pytest.raises(KeyboardInterrupt):
                change()
        assert (folder / INDEX_NAME).read_bytes() == old
        assert sorted(open_bundle(folder)) == sorted(names)
        assert listing(folder).tasks == listing(bare(folder)).tasks
    add(folder, [f"last={adapters['e']}"], day=DAY)
    opened = open_bundle(folder)
    assert not opened.is_whole
    assert listing(folder).tasks == listing(bare(folder)).tasks


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room for tasks, and none for an index."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("hydraopt.bundle.index.write_index", full)


def test_a_change_without_room_for_the_index_is_made(
    folder: Path, adapters: dict[str, Path], full_disk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = (folder / INDEX_NAME).read_bytes()
    changes = (
        (lambda: add(folder, [adapters["e"]], day=DAY), "abcde"),
        (lambda: replace(folder, [f"a={adapters['f']}"], day=DAY), "abcde"),
        (lambda: rename(folder, "b", "B"), "Bacde"),
        (lambda: remove(folder, ["c"]), "Bade"),
    )
    for change, names in changes:
        (folder / INDEX_NAME).write_bytes(old)
        (warning,) = change().warnings
        assert (warning.code, warning.where) == ("no_index", str(folder / INDEX_NAME))
        # Who cannot list the folder would go by the old one.
        assert not (folder / INDEX_NAME).exists()
        assert list(open_bundle(folder)) == sorted(names)
    monkeypatch.undo()
    assert remove(folder, ["B"]).warnings == ()
    assert not open_bundle(folder).is_whole


def test_an_index_that_stays_is_named_to_be_deleted(
    folder: Path, full_disk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    removing = index_file.remove_file

    def only_others(file: Path) -> None:
        if file.name == INDEX_NAME:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        removing(file)

    monkeypatch.setattr(index_file, "remove_file", only_others)
    (warning,) = remove(folder, ["c"]).warnings
    assert (warning.code, warning.where) == ("old_index", str(folder / INDEX_NAME))
    assert listing(folder).tasks == listing(bare(folder)).tasks


def test_a_folder_in_the_place_of_the_index_keeps_nobody_from_a_change(
    folder: Path, adapters: dict[str, Path]
) -> None:
    (folder / INDEX_NAME).unlink()
    (folder / INDEX_NAME).mkdir()
    (folder / INDEX_NAME / "mine").write_text("before")
    (warning,) = add(folder, [adapters["e"]], day=DAY).warnings
    assert (warning.code, warning.where) == ("old_index", str(folder / INDEX_NAME))
    assert list(open_bundle(folder)) == list("abcde")
    assert (folder / INDEX_NAME / "mine").read_text() == "before"


def test_an_index_that_lies_costs_no_task(folder: Path, adapters: dict[str, Path]) -> None:
    index, core = read_index(folder, files_in(folder)), core_of_bundle(open_bundle(folder))
    assert index is not None
    assert core is not None
    other = {"a": "b", "b": "a"}
    files = [dataclasses.replace(x, task=other.get(x.task, x.task)) for x in index.files.values()]
    write_index(folder, (index.core, core.id), files)
    before = state(folder)
    for change in (
        lambda: remove(folder, ["a"]),
        lambda: replace(folder, [f"a={adapters['f']}"], day=DAY),
        lambda: rename(folder, "a", "x"),
    ):
        with raises(BundleFormatError, file="b.task.safetensors", expected="a"):
            change()
        assert state(folder) == before
    (folder / INDEX_NAME).unlink()
    remove(folder, ["a"])
    assert sorted(set(before) - set(state(folder))) == ["a.task.safetensors"]


def test_a_copy_of_a_task_file_goes_with_it(folder: Path, adapters: dict[str, Path]) -> None:
    for file, copy in (("a", "a copy"), ("b", "b copy")):
        shutil.copy(folder / f"{file}.task.safetensors", folder / f"{copy}.task.safetensors")
    remove(folder, ["a"])
    replace(folder, [f"b={adapters['f']}"], day=DAY)
    assert sorted(x.name for x in folder.glob("*.task.*")) == [
        f"{x}.task.safetensors" for x in "bcd"
    ]
    assert sorted(open_bundle(folder)) == ["b", "c", "d"]


def bare(folder: Path) -> Path:
    """The same without an index."""
    copy = folder.with_name("bare")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(INDEX_NAME))
    return copy


def test_a_rename_that_was_killed_leaves_the_task_under_both_names(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("hydraopt.bundle.collections.remove_file", die)
        with pytest.raises(KeyboardInterrupt):
            rename(folder, "a", "x")
    assert list(open_bundle(folder)) == ["a", "b", "c", "d", "x"]
    remove(folder, ["a"])
    assert list(open_bundle(folder)) == ["b", "c", "d", "x"]


def test_a_folder_without_a_core_is_refused(tmp_path: Path, adapters: dict[str, Path]) -> None:
    with raises(BundleFormatError, expected="NAME.core.safetensors"):
        add(tmp_path, [adapters["e"]])
    assert [x for x in tmp_path.iterdir() if x.is_file()] == []
