"""Files that are replaced in one step."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hydraopt.errors import UsageError
from hydraopt.files import (
    check_apart,
    destination,
    replaced_file,
    replaced_folder,
    write_atomically,
    write_new,
    writing,
)
from tests.raising import raises


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o640)
    assert write_atomically(path, [b"n", b"ew"]) == 3
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names(tmp_path) == ["file"]


def test_a_link_is_replaced_unless_its_destination_is_asked_for(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(b"old")
    real.chmod(0o600)
    link.symlink_to(real)
    write_atomically(destination(link), [b"new"])
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    before = os.umask(0o022)
    try:
        write_atomically(link, [b"other"])
    finally:
        os.umask(before)
    assert not link.is_symlink()
    assert (link.read_bytes(), real.read_bytes()) == (b"other", b"new")
    # The mode of a file elsewhere is not that of what was here.
    assert stat.S_IMODE(link.stat().st_mode) == 0o644


def test_a_destination_is_where_the_system_would_write(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "up").symlink_to("../c")
    (tmp_path / "c" / "d").mkdir(parents=True)
    (tmp_path / "c" / "d" / "there").symlink_to(tmp_path / "a" / "b" / ".." / "x")
    (tmp_path / "round").symlink_to("round")
    monkeypatch.chdir(tmp_path / "a")
    for path in ("x", "b/../x", "up/d/there", "up/../a/x", ".", "..", "up/d/..", "none/../x"):
        assert destination(Path(path)) == Path(os.path.realpath(path))
    with pytest.raises(OSError, match="links"):
        destination(tmp_path / "round")


def test_a_file_of_a_new_folder_is_written_once(tmp_path: Path) -> None:
    assert write_new(tmp_path / "new", iter([b"a", b"", b"bc"])) == 3
    assert (tmp_path / "new").read_bytes() == b"abc"
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "new", [b"other"])
    assert (tmp_path / "new").read_bytes() == b"abc"


def test_a_new_file_has_the_mode_that_the_user_gives_to_new_ones(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "new", [b"x"])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.chown(path, 65534, 65534)
    write_atomically(path, [b"new"])
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534)


def test_devices_fifos_and_folders_are_no_targets(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name in ("/dev/null", tmp_path / "fifo", tmp_path / "folder"):
        with pytest.raises(OSError, match=os.fspath(name)) as error:
            write_atomically(name, [b"x"])
        assert error.value.filename == os.fspath(name)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert names(tmp_path) == ["fifo", "folder"]


def test_an_error_names_the_target_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def full() -> object:
        yield b"x"
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=f"Errno {errno.ENOSPC}") as error:
        write_atomically(path, full())  # type: ignore[arg-type]
    assert error.value.filename == os.fspath(path)
    assert names(tmp_path) == []


def test_names_of_scratch_files_cannot_be_laid_in_wait(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(writing.secrets, "token_hex", lambda size: "0" * 2 * size)
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / f".file.tmp-{'0' * 16}").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "file", [b"x"])
    assert victim.read_bytes() == b"mine"


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    target = tmp_path / "file"
    script = (
        "import sys, time\nfrom hydraopt.files.writing import write_atomically\n"
        "def slow():\n    yield b'x'\n    print('begun', flush=True)\n    time.sleep(60)\n"
        "write_atomically(sys.argv[1], slow())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(target)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "begun\n"
        (left,) = names(tmp_path)
        assert left.startswith(".file.tmp-")
        write_atomically(target, [b"mine"])
        assert names(tmp_path) == [left, "file"]
        writer.send_signal(signal.SIGKILL)
    write_atomically(target, [b"again"])
    assert names(tmp_path) == ["file"]
    # What only looks like a leftover is somebody's.
    (tmp_path / ".file.tmp-notes").write_bytes(b"")
    write_atomically(target, [b"once more"])
    assert names(tmp_path) == [".file.tmp-notes", "file"]


def test_a_file_of_another_library_appears_at_once(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.gguf"
    with replaced_file(target, ".gguf") as made:
        made.write_bytes(b"x")
        assert made.suffix == ".gguf"
        assert not target.exists()
    assert target.read_bytes() == b"x"

    def broken() -> None:
        with replaced_file(target, ".gguf") as made:
            made.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert target.read_bytes() == b"x"
    assert names(target.parent) == ["file.gguf"]


def test_an_address_of_a_file_here_is_its_path(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_atomically(f"file://{tmp_path}/x%20y", [b"abc"])
    assert [path.name for path in tmp_path.iterdir()] == ["x y"]
    with raises(UsageError, file="x%20y"):
        check_apart(f"file://{tmp_path}/x%20y", [tmp_path / "x y"])
    with raises(UsageError, file="x y"):
        check_apart(tmp_path / "x y", [f"file://{tmp_path}/x%20y"])


def test_a_scratch_that_another_takes_for_a_dead_one_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its making and its lock another writer of the same target may look."""
    real, tries, looks = fcntl.flock, [], []

    def looked_at(descriptor: int, operation: int) -> None:
        if not looks:
            tries.append(descriptor)
            if len(tries) < 3:
                looks.append(True)
                writing.clean(tmp_path / "x")
                looks.clear()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", looked_at)
    assert write_atomically(tmp_path / "x", [b"content"]) == 7
    assert len(tries) == 3
    tries.clear()
    with replaced_folder(tmp_path / "y"):
        pass
    assert names(tmp_path) == ["x", "y"]
    assert (tmp_path / "x").read_bytes() == b"content"
