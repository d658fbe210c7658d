"""Folders that are replaced while they are somebody's: a working directory, a mount, a group's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from hydraopt.files import writing
from hydraopt.files.writing import replaced_folder, write_atomically, write_new


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "out"
    (made / "inside").mkdir(parents=True)
    (made / "inside" / "x").write_text("x")
    (made / "config.json").write_text("old")
    return made


def replace(path: str | Path) -> None:
    with replaced_folder(path) as made:
        write_new(made / "config.json", [b"new"])


@pytest.mark.parametrize("inside", ["", "inside"])
def test_who_works_in_a_folder_stays_in_it(folder: Path, monkeypatch, inside: str) -> None:
    monkeypatch.chdir(folder / inside)
    number = folder.stat().st_ino
    replace(".." if inside else ".")
    assert Path.cwd() == folder / inside
    assert sorted(os.listdir("..") if inside else os.listdir(".")) == ["config.json", "inside"]
    assert (folder / "config.json").read_text() == "new"
    assert folder.stat().st_ino == number
    monkeypatch.chdir(folder.parent)
    replace(folder)
    assert folder.stat().st_ino != number  # elsewhere it is exchanged, in one step


def test_a_folder_that_something_is_mounted_in_is_not_exchanged(folder: Path, monkeypatch) -> None:
    number, really = folder.stat().st_ino, Path.lstat

    def lstat(path: Path) -> os.stat_result:
        told = list(really(path))
        if path.name == "inside":
            told[stat.ST_DEV] += 1
        return os.stat_result(told)

    monkeypatch.setattr(Path, "lstat", lstat)
    replace(folder)
    assert folder.stat().st_ino == number
    assert (folder / "inside" / "x").read_text() == "x"
    assert (folder / "config.json").read_text() == "new"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("whole", [False, True])
def test_what_cannot_be_given_away_keeps_its_group_and_its_mode(
    folder: Path, monkeypatch, whole: bool
) -> None:
    file = folder / "config.json"
    for path, mode in ((file, 0o640), (folder, 0o2770)):
        os.chown(path, 65534, 2000)
        os.chmod(path, mode)
    really = os.chown

    def chown(path, owner: int, group: int) -> None:
        if owner != -1:
            raise PermissionError(1, "not permitted")
        really(path, owner, group)

    monkeypatch.setattr(writing.os, "chown", chown)
    replace(folder) if whole else write_atomically(file, [b"new"])
    assert file.read_text() == "new"
    for path, mode in ((file, 0o640), (folder, 0o2770)):
        now = path.stat()
        assert (now.st_gid, stat.S_IMODE(now.st_mode)) == (2000, mode), path
    assert file.stat().st_uid == 0
    monkeypatch.setattr(writing.os, "chown", lambda *_: (_ for _ in ()).throw(PermissionError()))
    replace(folder) if whole else write_atomically(file, [b"newer"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
