"""One writer at a time, and whenever it dies, the old collection or the new one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hydraopt.errors import LockedError
from hydraopt.files import locked
from hydraopt.merging import add, remove, rename, replace
from tests.editing.living import Kind, kinds, state
from tests.marks import slow
from tests.raising import raises

HOLDER = """
import sys
from hydraopt.bundle.collections import collection_at
with collection_at(sys.argv[1]).locked():
    print("held", flush=True)
    sys.stdin.readline()
"""

# Forks writers, one after another, that add and remove a task until they are killed. After each the
# hash of what is there is printed, and what the index tells is held against the files. A process of
# its own, because forking one that has threads is not safe.
KILLER = """
import hashlib, os, random, signal, sys, tempfile, time
from pathlib import Path
from hydraopt.inspect.collection import listing
from hydraopt.merging.changes import add, remove
from tests.editing.living import state

path, adapter, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
dice = random.Random(0)

def print_state():
    if path.is_dir():
        with tempfile.TemporaryDirectory() as bare:
            for name, data in state(path).items():
                Path(bare, name).write_bytes(data)
            assert listing(path).tasks == listing(bare).tasks
    digest = hashlib.sha256(repr(sorted(state(path).items())).encode()).hexdigest()
    print(digest, flush=True)

def turn():
    try:
        remove(path, ["e"])
    except KeyError:
        add(path, [adapter], day="2026-03-01", workers=1)

add(path, [adapter], day="2026-03-01", workers=1)  # all is imported
print_state()
remove(path, ["e"])
print_state()
for _ in range(count):
    child = os.fork()
    while child == 0:
        turn()
    time.sleep(dice.uniform(0.001, 0.3))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print_state()
"""


def _name(kind: Kind) -> str:
    return kind.name


def _killed(path: Path, adapter: Path, count: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(path), str(adapter), str(count)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with_it, without, *seen = done.stdout.splitlines()
    assert with_it != without
    assert len(seen) == count
    assert set(seen) <= {with_it, without}
    # What killed writers left beside it goes with the next change, and holds nobody up.
    add(path, [f"last={adapter}"], day="2026-03-01")
    folder = path if path.is_dir() else path.parent
    assert [x.name for x in folder.iterdir() if x.name.startswith(".")] == []


# Three seconds each, most of them the start of a process.
@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [x if x.name == "folder" else slow(x) for x in kinds()], indirect=True, ids=_name
)
def test_killed_at_any_moment(four: Path, adapters: dict[str, Path]) -> None:
    _killed(four, adapters["e"], 3)


@pytest.mark.slow
def test_killed_a_hundred_times(four: Path, adapters: dict[str, Path]) -> None:
    _killed(four, adapters["e"], 100)


def test_a_second_writer_is_refused_at_once(four: Path, adapters: dict[str, Path]) -> None:
    before = state(four)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(four)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        for act in (
            lambda: add(four, [adapters["e"]]),
            lambda: replace(four, [adapters["a"]]),
            lambda: remove(four, ["a"]),
            lambda: rename(four, "a", "x"),
        ):
            with pytest.raises(LockedError):
                act()
        assert state(four) == before
        holder.kill()
    remove(four, ["a"])


def test_a_lock_goes_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with locked(path):
        assert [x.name for x in tmp_path.iterdir()] == [".x.lock"]
        assert (tmp_path / ".x.lock").read_text() == f"{os.getpid()}\n"
        with pytest.raises(LockedError), locked(path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_holder_left_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / ".x.lock").write_text("123\n")
    with locked(tmp_path / "x"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_link_and_its_target_have_one_lock(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "x")
    with locked(tmp_path / "link"), pytest.raises(LockedError), locked(tmp_path / "x"):
        pass


def test_a_lock_of_another_user_holds_nobody_up(tmp_path: Path, monkeypatch) -> None:
    """It can be read and held, but not written."""
    (tmp_path / ".x.lock").write_text("123\n")
    really = os.open

    def denied(path, flags, *mode):
        if str(path).endswith(".lock") and flags & os.O_RDWR and os.path.exists(path):
            raise PermissionError(13, "denied", str(path))
        return really(path, flags, *mode)

    monkeypatch.setattr(os, "open", denied)
    refused = raises(LockedError, file="x")
    with locked(tmp_path / "x"), refused, locked(tmp_path / "x"):
        pass
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(Path, "unlink", lambda self: (_ for _ in ()).throw(PermissionError()))
    (tmp_path / ".x.lock").write_text("123\n")
    for _ in range(2):  # one that stays is taken as well
        with locked(tmp_path / "x"):
            pass


def test_who_may_not_write_there_is_told_so(tmp_path: Path, monkeypatch) -> None:
    def denied(path, flags, *mode):
        if flags & os.O_CREAT:
            raise PermissionError(13, "denied", str(path))
        raise FileNotFoundError(2, "none", str(path))

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(PermissionError), locked(tmp_path / "x"):
        pass
