"""The index of a folder: it saves reading, and whatever it says, the files count."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hydraopt.bundle import (
    Bundle,
    Following,
    checksum,
    join,
    open_bundle,
    parts as reading,
    pull,
    split,
    verify_bundle,
)
from hydraopt.bundle.folder import renew_index
from hydraopt.bundle.index import read_index, write_index
from hydraopt.errors import BundleFormatError, TaskNotFoundError
from hydraopt.files import CORE_SUFFIX, INDEX_NAME, TASK_SUFFIX, files_in
from tests.bundle.bundles import tiny
from tests.collection.indexes import index_text, rewritten, same, whole
from tests.raising import raises

NAMES = ("de", "en", "es", "fr")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("made")
    tiny(NAMES).write(made / "four.hydra.safetensors")
    split(made / "four.hydra.safetensors", made / "four")
    return made


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "four"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the task files that were read."""
    names = []
    container = reading.Container

    def counted(path: Path, formats: tuple[str, ...], hold: bool = True) -> object:
        if path.name.endswith(TASK_SUFFIX):
            names.append(path.name.removesuffix(TASK_SUFFIX))
        return container(path, formats, hold)

    monkeypatch.setattr(reading, "Container", counted)
    return names


def test_opening_reads_no_task_file_and_a_task_reads_its_own(folder: Path, read: list[str]) -> None:
    opened = open_bundle(folder)
    assert list(opened) == list(NAMES)
    assert [row.name for row in opened.rows] == list(NAMES)
    assert opened.size > 0
    assert "zz" not in opened
    assert read == []
    opened["es"].factors()
    opened["es"].factors()
    assert read == ["es"]
    with raises(TaskNotFoundError, file="four", got="'zz'"):
        opened["zz"]
    assert same(folder)


def test_the_core_is_decoded_once_for_all_tasks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, open_stream = [], Bundle.open_stream

    def counted(self: Bundle, name: str, *more: Any) -> Any:
        decoded.append(name)
        return open_stream(self, name, *more)

    monkeypatch.setattr(Bundle, "open_stream", counted)
    opened = open_bundle(folder)
    for name in NAMES:
        opened[name].factors()
    assert decoded.count("shared") == 1


def test_of_many_tasks_the_last_stay_open_and_all_count(
    folder: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hydraopt.bundle.folder.KEPT", 2)
    opened = open_bundle(folder)
    before = opened.bytes_read
    tasks = [opened[name] for name in NAMES]
    heads = opened.bytes_read - before
    assert len(opened.source._parts) == 2
    for task in tasks:  # two of which it holds no more
        task.factors()
    own = [task.contents.sizes["task/0"] for task in tasks]
    shared = opened.core_bytes
    assert opened.bytes_read == before + heads + shared + sum(own)
    for name in ("es", "fr", "de", "fr", "es", "fr"):
        opened[name]
    assert read == [*NAMES, "de", "es"]
    assert opened.bytes_read > before + heads + shared + sum(own)


def test_what_is_not_in_the_index_is_read(folder: Path, read: list[str], tmp_path: Path) -> None:
    parts = tiny((*NAMES, "new"))
    parts.write(tmp_path / "five.hydra.safetensors")
    split(tmp_path / "five.hydra.safetensors", tmp_path / "five")
    (tmp_path / "five" / "new.task.safetensors").rename(tmp_path / "held")
    shutil.copy(tmp_path / "five" / INDEX_NAME, tmp_path / "index")
    renew_index(tmp_path / "five")
    (tmp_path / "held").rename(tmp_path / "five" / "new.task.safetensors")
    read.clear()
    assert "new" in open_bundle(tmp_path / "five")
    assert read == ["new"]
    assert same(tmp_path / "five")


def test_what_is_gone_is_gone(folder: Path, read: list[str]) -> None:
    (folder / "en.task.safetensors").unlink()
    assert list(open_bundle(folder)) == ["de", "es", "fr"]
    assert read == []
    assert same(folder)


def test_a_file_that_was_renamed_by_hand_is_read(folder: Path, read: list[str]) -> None:
    (folder / "en.task.safetensors").rename(folder / "zz.task.safetensors")
    assert list(open_bundle(folder)) == list(NAMES)
    assert read == ["zz"]
    assert same(folder)


def test_a_name_that_is_no_text_is_left_out_and_read(folder: Path, read: list[str]) -> None:
    odd = os.fsdecode(b"\xff")
    (folder / f"en{TASK_SUFFIX}").rename(folder / f"{odd}{TASK_SUFFIX}")
    assert renew_index(folder) is None
    read.clear()
    assert list(open_bundle(folder)) == list(NAMES)
    assert read == [odd]
    split(folder, folder.parent / odd)
    read.clear()
    assert list(open_bundle(folder.parent / odd)) == list(NAMES)
    assert read == []


def test_two_files_that_changed_names_are_told_apart(folder: Path) -> None:
    """Of one size and one time: what the index says of them is wrong, and their files are right."""
    one, other = (folder / f"{name}.task.safetensors" for name in ("en", "es"))
    one.rename(folder / "x")
    other.rename(one)
    (folder / "x").rename(other)
    for file in (one, other):
        os.utime(file, ns=(1, 10**18))

    def lie(value: dict) -> None:  # type: ignore[type-arg]
        for i, name in enumerate(value["files"]["file"]):
            if name in (one.name, other.name):
                value["files"]["mark"][i] = str(10**18)
                value["files"]["size"][i] = (folder / name).stat().st_size

    rewritten(folder, lie)
    opened = open_bundle(folder)
    theirs = whole(folder)
    for name in ("en", "es"):
        assert opened[name].entry.alone() == theirs[name].entry.alone()
        assert opened[name].name == name


def test_a_copy_with_other_times_is_the_same(folder: Path, read: list[str]) -> None:
    for file in folder.iterdir():
        os.utime(file, ns=(1, 1))
    open_bundle(folder)
    assert sorted(read) == list(NAMES)
    assert same(folder)
    renew_index(folder)
    read.clear()
    open_bundle(folder)
    assert read == []


def test_a_time_as_late_as_the_index_proves_nothing(folder: Path, read: list[str]) -> None:
    file = folder / "en.task.safetensors"
    late = (folder / INDEX_NAME).stat().st_mtime_ns
    os.utime(file, ns=(late, late))
    rewritten(
        folder,
        lambda value: value["files"]["mark"].__setitem__(1, str(late)),  # type: ignore[index]
    )
    os.utime(folder / INDEX_NAME, ns=(late, late))
    open_bundle(folder)
    assert read == ["en"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[:-3] + b"xyz",
        lambda data: b"\x10" + b"[" * 40,
        lambda data: data.replace(b"hydraopt-index", b"hydraopt-other"),
        lambda data: data.replace(b'"core":"', b'"core":"f')[:8] + data[8:],
    ],
)
def test_a_damaged_index_is_none(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    data = (folder / INDEX_NAME).read_bytes()
    (folder / INDEX_NAME).write_bytes(damage(data))
    assert same(folder)
    renew_index(folder)
    assert same(folder)


@pytest.mark.parametrize(
    "lie",
    [
        lambda value: value["files"].update(extra=[1, 2, 3, 4]),
        lambda value: value["files"].update(size=[1, 2]),
        lambda value: value["files"].update(file=["../x.task.safetensors"] * 4),
        lambda value: value["files"].update(file=["en.task.safetensors"] * 4),
        lambda value: value["files"].update(size=[True] * 4),
        lambda value: value["files"].update(name=["a/b"] * 4),
        lambda value: value["files"].update(mark=[["x"]] * 4),
        lambda value: value.update(core="../other.core.safetensors"),
        lambda value: value.update(more=1),
        lambda value: {"files": []},
        lambda value: [],
    ],
)
def test_an_index_of_nonsense_is_none(folder: Path, lie: Callable[[object], object]) -> None:
    rewritten(folder, lie)
    assert same(folder)


@pytest.mark.parametrize("error", ["much", -1.0, 10**400], ids=["text", "below", "endless"])
def test_a_row_of_nonsense_does_not_count(folder: Path, error: object) -> None:
    rewritten(folder, lambda value: value["files"].update(error={"=": error}))  # type: ignore[attr-defined]
    assert same(folder)


def test_an_index_that_is_too_large_is_not_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, read: list[str]
) -> None:
    monkeypatch.setattr("hydraopt.bundle.index.EACH", 0)
    rewritten(folder, lambda value: value, pad=5000)
    packed, unpacked = (folder / INDEX_NAME).stat().st_size, len(index_text(folder))
    assert packed < unpacked
    for most, reads in ((packed - 1, 4), (unpacked - 1, 4), (unpacked, 0)):
        monkeypatch.setattr("hydraopt.bundle.index.FREE", most)
        read.clear()
        open_bundle(folder)
        assert len(read) == reads


def test_the_index_of_another_core_is_none(folder: Path, read: list[str]) -> None:
    rewritten(folder, lambda value: value, core="0" * 16)
    open_bundle(folder)
    assert sorted(read) == list(NAMES)
    assert same(folder)


def test_an_index_is_later_than_its_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    now = 1_700_000_000 * 10**9
    clock = SimpleNamespace(time_ns=lambda: now, sleep=waits.append)
    monkeypatch.setattr("hydraopt.bundle.index.time", clock)
    index = read_index(folder, files_in(folder))
    assert index is not None
    (one, *_) = index.files.values()
    for mark, waited in ((now, 1), (now - 10**9, 0), (10**19, 1)):
        waits.clear()
        core = "four.core.safetensors", "0" * 16
        write_index(folder, core, [dataclasses.replace(one, mark=str(mark))])
        assert len(waits) == waited
        assert all(0 < wait <= 0.02 for wait in waits)


def test_beside_two_cores_it_does_not_count(folder: Path, tmp_path: Path, read: list[str]) -> None:
    tiny(("x", "y"), seed=9).write(tmp_path / "other")
    split(tmp_path / "other", tmp_path / "second")
    for file in (tmp_path / "second").iterdir():
        if file.name != INDEX_NAME:
            shutil.copy(file, folder)
    (core,) = folder.glob(f"four{CORE_SUFFIX}")
    assert list(open_bundle(core)) == list(NAMES)
    assert sorted(read) == sorted([*NAMES, "x", "y"])


def test_a_stranger_and_what_is_damaged_are_refused_as_without_it(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "bad.task.safetensors").write_bytes(b"not to be read")
    with raises(BundleFormatError, file="bad.task.safetensors"):
        open_bundle(folder)
    (folder / "bad.task.safetensors").unlink()
    tiny(("new",), seed=9).write(tmp_path / "other")
    split(tmp_path / "other", tmp_path / "second")
    shutil.copy(tmp_path / "second" / "new.task.safetensors", folder)
    with raises(BundleFormatError, file="new.task.safetensors"):
        open_bundle(folder)
    (folder / "new.task.safetensors").unlink()
    shutil.copy(folder / "de.task.safetensors", folder / "copy.task.safetensors")
    with raises(BundleFormatError, file="de.task.safetensors", got="copy.task.safetensors"):
        open_bundle(folder)


def test_who_has_opened_it_sees_what_comes_and_goes_when_asking(folder: Path) -> None:
    opened = open_bundle(folder)
    (folder / "en.task.safetensors").unlink()
    (folder / "es.task.safetensors").rename(folder / "moved.task.safetensors")
    assert opened["es"].name == "es"
    with raises(TaskNotFoundError, file="four", got="'en'"):
        opened["en"]
    assert list(opened) == ["de", "es", "fr"]


def test_one_task_at_a_time_is_fetched_where_the_index_says(folder: Path, read: list[str]) -> None:
    bundle = Following(folder)
    (folder / "en.task.safetensors").rename(folder / "odd.task.safetensors")
    renew_index(folder)
    read.clear()
    assert bundle.tasks(["en"])["en"].name == "en"
    assert read == ["odd"]
    (folder / "odd.task.safetensors").rename(folder / "en.task.safetensors")
    assert bundle.tasks(["en"])["en"].name == "en"  # the index is wrong about it
    (folder / "es.task.safetensors").rename(folder / "es~2.task.safetensors")
    (folder / "fr.task.safetensors").rename(folder / "es.task.safetensors")
    assert bundle.tasks(["es"])["es"].name == "es"
    with pytest.raises(TaskNotFoundError):
        bundle.tasks(["zz"])


def test_joining_and_verifying_take_all_files(folder: Path, tmp_path: Path) -> None:
    join(sorted(folder.iterdir()), tmp_path / "joined")
    one = tmp_path / "four.hydra.safetensors"
    assert (tmp_path / "joined").read_bytes() == one.read_bytes()
    assert verify_bundle(folder).ok


@pytest.mark.parametrize("into", ["pulled", None])
def test_what_is_pulled_is_what_the_files_say(
    folder: Path, tmp_path: Path, into: str | None
) -> None:
    rewritten(folder, lambda value: value["files"].update(name=[None, "zz", None, None]))  # type: ignore[attr-defined]
    assert list(open_bundle(folder)) == ["de", "es", "fr", "zz"]
    assert pull(folder, into and tmp_path / into).tasks == NAMES


def test_what_rots_unseen_is_reported_and_not_raised(folder: Path) -> None:
    file = folder / "en.task.safetensors"
    data, was = file.read_bytes(), file.stat()
    start = 8 + int.from_bytes(data[:8], "little")
    file.write_bytes(data[: start + 9] + bytes([data[start + 9] ^ 1]) + data[start + 10 :])
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert list(open_bundle(folder)) == list(NAMES)
    (problem,) = verify_bundle(folder).problems
    assert "en.task.safetensors" in problem


def test_ten_thousand_rows_take_a_megabyte(folder: Path) -> None:
    """Random marks and hashes, which do not pack; the bound in format.md."""
    index = read_index(folder, files_in(folder))
    assert index is not None
    (one, *_) = index.files.values()
    many = []
    for i in range(10_000):
        row = dataclasses.replace(one.row, name=f"skill{i:05d}-de", numbers=i * 7919 % 100_003)
        digest = checksum(str(i).encode()) * 2
        size, mark = 30_000 + i * 31 % 9973, str(1_700_000_000_000_000_000 + i * 104_729_000_003)
        file = f"{row.name}{TASK_SUFFIX}"
        many.append(dataclasses.replace(
            one, file=file, size=size, task=row.name, row_values=row, mark=mark, md5=digest
        ))  # fmt: skip
    size = write_index(folder, ("four.core.safetensors", "0" * 16), many)
    assert 200_000 < size < 1_000_000
