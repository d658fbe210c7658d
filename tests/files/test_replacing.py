"""Folders whose files are replaced: a writer that dies has done nothing, or the next does all."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest

from hydraopt.errors import LockedError, UsageError
from hydraopt.files import (
    clean,
    is_unfinished,
    locked_folder,
    replaced_folder,
    write_atomically,
    write_new,
)
from tests.killing import swept
from tests.raising import raises

# Kills a writer before each of its changes; once, when it has much to do, also the next one before
# each of its own. After them the folder has the files of one kind, with those that are no writer's.
_SWEEP = """
import shutil, sys
from pathlib import Path
from hydraopt.files.locks import locked_folder
from hydraopt.files.writing import clean, replaced_folder, write_new
from tests.killing import swept
from tests.killing import killed_before

top = Path(sys.argv[1])
folder = top / "mnt"
NEW = ("a", "config.json", "y.core.safetensors", "z")
OLD = ("a", "b", "config.json", "x.core.safetensors", "z")

def fresh():
    shutil.rmtree(top, ignore_errors=True)
    (folder / "inside").mkdir(parents=True)
    (folder / "inside" / "mine").write_text("mine")
    (folder / "README.md").write_text("mine")
    for name in OLD:
        (folder / name).write_text("old")

def replace():
    with replaced_folder(folder, OLD.__contains__) as made:
        for name in NEW:
            write_new(made / name, [b"new"])

def finish():
    with locked_folder(folder):
        clean(folder)

def kind():
    texts = {x.name: x.read_text() for x in folder.iterdir() if x.name != "inside"}
    assert texts.pop("README.md") == "mine, later"
    assert (folder / "inside" / "mine").read_text() == "mine"
    assert sorted(top.iterdir()) == [folder], list(top.iterdir())
    (text,) = set(texts.values())
    assert set(texts) == set(NEW if text == "new" else OLD), texts
    return text

def edited():
    (folder / "README.md").unlink()
    (folder / "README.md").write_text("mine, later")

def loads(name):
    return any(x.name.endswith(name) for x in folder.iterdir())

kinds, number, dead, swept = [], 0, True, False
while dead:
    number += 1
    fresh()
    dead = killed_before(number, replace)
    texts = {x.read_text() for x in folder.iterdir() if x.is_file() and x.name in {*OLD, *NEW}}
    if len(texts) > 1:
        assert not loads(".core.safetensors"), "half a collection is one for its reader"
    if loads(".core.safetensors") and "new" in texts:
        assert texts == {"new"}
    again, died = 0, not swept and (folder / ".replacing.tmp").exists()
    swept = swept or died
    while died:
        again += 1
        fresh()
        assert killed_before(number, replace)
        edited()
        died = killed_before(again, finish)
        finish()
        assert kind() == "new"
    if not again:
        edited()
        finish()
    kinds.append(kind())
assert swept
print(*kinds)
"""


def test_killed_before_any_change_all_files_are_of_one_kind(tmp_path: Path) -> None:
    kinds = swept(_SWEEP, tmp_path / "top")
    assert kinds.count("old") > 4
    assert kinds.count("new") > 8


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of which a writer left half."""
    made = tmp_path / "mnt"
    made.mkdir()
    (made / "x").write_text("old")
    (made / "y").write_text("old")
    really = os.replace

    def failing(old: Path, new: Path) -> None:
        if Path(new).name == "y":
            raise OSError(errno.EIO, "broken")
        really(old, new)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", failing)
        with pytest.raises(OSError, match="broken"):
            replace(made)
    assert is_unfinished(made)
    return made


def replace(folder: Path) -> None:
    with replaced_folder(folder) as made:
        for name in "xy":
            write_new(made / name, [b"new"])


def texts(folder: Path) -> dict[str, str]:
    return {x.name: x.read_text() for x in sorted(folder.iterdir()) if x.is_file()}


def test_a_writer_that_failed_is_finished_by_the_next(folder: Path) -> None:
    clean(folder)
    assert texts(folder) == {"x": "new", "y": "old"}
    with locked_folder(folder):
        assert not is_unfinished(folder)
    assert texts(folder) == {"x": "new", "y": "new"}
    assert sorted(os.listdir(folder)) == ["x", "y"]


def test_where_nothing_can_be_locked_it_is_finished_too(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr("hydraopt.files.writing.fcntl", None)
    replace(folder)
    assert texts(folder) == {"x": "new", "y": "new"}


def test_a_writer_that_lives_is_left_alone(folder: Path) -> None:
    alive = os.open(folder / ".replacing.tmp", os.O_RDONLY)
    fcntl.flock(alive, fcntl.LOCK_EX)
    with raises(LockedError, file="mnt"):
        replace(folder)
    os.close(alive)
    replace(folder)
    assert texts(folder) == {"x": "new", "y": "new"}


def test_a_list_names_no_file_elsewhere(folder: Path) -> None:
    victim = folder.parent / "victim"
    victim.write_text("mine")
    for name in (b"../victim", os.fsencode(victim), b".."):
        (folder / ".replacing.tmp" / "gone").write_bytes(name)
        with raises(UsageError, file=".replacing.tmp"):
            replace(folder)
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("name", [".replacing.tmp", ".replacing.tmp/new"])
def test_a_link_takes_no_file_from_elsewhere(folder: Path, name: str) -> None:
    elsewhere = folder.parent / "elsewhere"
    (folder / name).rename(elsewhere)
    (folder / name).symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    with raises(UsageError, file=".replacing.tmp"):
        replace(folder)
    assert sorted(elsewhere.rglob("*")) == before


def test_a_folder_in_the_way_of_a_file_is_told_before_anything_changes(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    (tmp_path / "y").mkdir()
    with pytest.raises(IsADirectoryError):
        replace(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["x", "y"]
    assert texts(tmp_path) == {"x": "old"}


def test_a_failure_leaves_the_folder_as_it_was_or_none(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x").write_text("old")

    def fail(folder: Path) -> None:
        with replaced_folder(folder) as made:
            write_new(made / "x", [b"new"])
            raise RuntimeError

    for name in ("there", "new"):
        with pytest.raises(RuntimeError):
            fail(tmp_path / name)
    assert os.listdir(tmp_path) == ["there"]
    assert os.listdir(tmp_path / "there") == ["x"]
    assert texts(tmp_path / "there") == {"x": "old"}


@pytest.mark.parametrize("inside", ["", "inside"])
def test_other_files_folders_and_who_works_in_it_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    folder = tmp_path / "out"
    (folder / "inside").mkdir(parents=True)
    for name in ("inside/x", "x", "y", "README.md", "stale"):
        (folder / name).write_text("old")
    left = folder / f".out.tmp-{'0' * 16}"  # of a writer that was killed
    left.mkdir()
    monkeypatch.chdir(folder / inside)
    with replaced_folder(".." if inside else ".", lambda name: name == "stale") as made:
        write_new(made / "x", [b"new"])
        write_new(made / "y", [b"new"])
    assert Path.cwd() == folder / inside
    assert texts(folder) == {"x": "new", "y": "new", "README.md": "old"}
    assert (folder / "inside" / "x").read_text() == "old"
    assert len(os.listdir(folder)) == 4


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("whole", [False, True])
def test_what_cannot_be_given_away_keeps_its_group_and_its_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    (tmp_path / "x").write_text("old")
    file = tmp_path / "x"
    os.chown(file, 65534, 2000)
    os.chmod(file, 0o640)
    really = os.chown

    def chown(path: object, owner: int, group: int) -> None:
        if owner != -1:
            raise PermissionError(1, "not permitted")
        really(path, owner, group)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "chown", chown)
    replace(tmp_path) if whole else write_atomically(file, [b"new"])
    assert file.read_text() == "new"
    now = file.stat()
    assert (now.st_uid, now.st_gid, stat.S_IMODE(now.st_mode)) == (0, 2000, 0o640)
    monkeypatch.setattr(os, "chown", lambda *_: (_ for _ in ()).throw(PermissionError()))
    replace(tmp_path) if whole else write_atomically(file, [b"newer"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
