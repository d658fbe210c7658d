"""Links in the folder of a bundle: no command writes through one, at any name that it writes."""

from __future__ import annotations

import functools
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from hydraopt import open_bundle
from hydraopt.bundle import split
from hydraopt.cli.main import cli
from hydraopt.errors import HydraoptError
from hydraopt.files import INDEX_NAME
from hydraopt.merging import rename
from tests.editing.living import all_bytes
from tests.marks import slow

RESERVED = (INDEX_NAME, ".tasks.lock", ".replacing.tmp", "four.core.safetensors")
"""Names that commands give to files of their own; the test sees which others a command uses."""
LONG = {
    "export all",
    "merge",
    "merge to a folder",
    "plot",
    "refresh a file",
    "refresh another",
    "report",
    "shrink",
}
"""Commands that take seconds each; join, split, export and card write in the same ways."""

KINDS = ("file", "dangling", "folder", "moved")
_SCRATCH = re.compile(r"\.tmp-[0-9a-f]{16}$")
_CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink")

_changed: list[str] | None = None


@dataclass(frozen=True)
class Given:
    """What commands read: adapters by name, and the same bundle as a file and as a folder, with one
    over another core."""

    adapters: dict[str, Path]
    file: Path
    folder: Path
    other: Path


Verb = Callable[[Path, Given], list[object]]

IN_PLACE: dict[str, Verb] = {
    "add": lambda at, x: ["add", at, x.adapters["e"]],
    "remove": lambda at, x: ["remove", at, "b"],
    "rename": lambda at, x: ["rename", at, "a", "x"],
    "replace": lambda at, x: ["add", at, f"a={x.adapters['e']}", "--replace"],
    "refresh": lambda at, x: ["refresh", at, "--force", "--error", "0.3", "--workers", "1"],
    "split": lambda at, x: ["split", x.file, "-o", at, "--force"],
    "pull a task": lambda at, x: ["pull", x.folder, "-o", at, "a"],
    "pull all": lambda at, x: ["pull", x.folder, "-o", at],
    "pull from a file": lambda at, x: ["pull", x.file, "-o", at, "a"],
    "refresh another": lambda at, x: [
        *("refresh", x.other, "-o", at, "--force", "--error", "0.3", "--workers", "1")
    ],
}
BESIDE: dict[str, Verb] = {
    "merge": lambda at, x: [
        *("merge", x.adapters["e"], x.adapters["f"], "--error", "0.3", "--workers", "1"),
        *("--force", "-o", at / "two.hydra.safetensors"),
    ],
    "merge to a folder": lambda at, x: [
        *("merge", x.adapters["e"], x.adapters["f"], "--error", "0.3", "--workers", "1"),
        *("--force", "-o", f"{at}/two/"),
    ],
    "shrink": lambda at, x: [
        *("shrink", x.file, "--error", "0.5", "--force", "-o", at / "small.hydra.safetensors")
    ],
    "join": lambda at, x: ["join", at, "--force", "-o", at / "one.hydra.safetensors"],
    "refresh a file": lambda at, x: [
        *("refresh", x.file, "--error", "0.3", "--workers", "1", "--force"),
        *("-o", at / "new.hydra.safetensors"),
    ],
    "split beside": lambda at, x: ["split", x.file, "-o", at / "parts", "--force"],
    "pull beside": lambda at, x: ["pull", x.file, "-o", at / "pulled"],
    "export": lambda at, x: ["export", x.file, "a", "--force", "-o", at / "exported"],
    "export all": lambda at, x: ["export", x.file, "--all", "--force", "-o", at],
    "report": lambda at, x: ["report", x.file, "-o", at / "report.html"],
    "card": lambda at, x: ["report", x.file, "--card", "-o", at / "README.md"],
    "plot": lambda at, x: [
        *("inspect", x.adapters["e"], x.adapters["f"], "--plot", at / "picture.png")
    ],
}
VERBS = {**IN_PLACE, **BESIDE}


@pytest.fixture(scope="module")
def given(
    merged: Path, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Given:
    top = tmp_path_factory.mktemp("given")
    split(merged, top / "four")
    split(merged, top / "other")
    ran(["refresh", top / "other", "--force", "--error", "0.2", "--workers", "1"])
    return Given(adapters, merged, top / "four", top / "other")


def ran(arguments: list[object]) -> int:
    """Run a command, or ``rename``, which is a function alone; return the exit code."""
    if arguments[0] == "rename":
        try:
            rename(*map(str, arguments[1:]))
        except HydraoptError:
            return 2
        return 0
    done = CliRunner().invoke(cli, [str(x) for x in arguments])
    assert done.exit_code in (0, 2), done.output
    return done.exit_code


def _seen(event: str, args: tuple[object, ...]) -> None:
    if _changed is None:
        return
    if event == "open":
        path, _, flags = args
        if isinstance(path, int) or not isinstance(flags, int):
            return  # a file that is open already
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            _changed.append(os.path.abspath(os.fsdecode(path)))  # type: ignore[arg-type]
    elif event in _CHANGES:
        args = args[1:] if event == "os.symlink" else args  # the text of a link is no path
        _changed.extend(os.path.abspath(x) for x in args if isinstance(x, str | os.PathLike))


@functools.cache
def _watch() -> None:
    """Install the hook, which stays, when a test needs it: it slows what follows."""
    sys.addaudithook(_seen)


@contextmanager
def changes() -> Iterator[list[str]]:
    """The paths that this process opens for writing, makes, renames or removes."""
    global _changed
    _watch()
    _changed = paths = []
    try:
        yield paths
    finally:
        _changed = None


def names_of(verb: Verb, folder: Path, given: Given) -> list[str]:
    """The names in a folder that a command uses or leaves; those below them as well."""
    with changes() as paths:
        assert ran(verb(folder, given)) == 0
    used = {Path(x).relative_to(folder) for x in paths if x.startswith(f"{folder}{os.sep}")}
    used |= {x.relative_to(folder) for x in folder.rglob("*")} | {Path(x) for x in RESERVED}
    return sorted(str(x) for x in used if not any(map(_SCRATCH.search, x.parts)))


def plant(link: Path, kind: str, outside: Path) -> bool:
    """Put a link in the place of a file or folder; whether there is something to be moved."""
    link.parent.mkdir(parents=True, exist_ok=True)
    there = os.path.lexists(link)
    if kind == "moved":
        if not there:
            return False
        link.rename(outside / "moved")
    elif there:
        shutil.rmtree(link) if link.is_dir() else link.unlink()
    target = {"file": "victim", "dangling": "nothing", "folder": "inner", "moved": "moved"}[kind]
    link.symlink_to(outside / target)
    return True


def tree(top: Path) -> dict[str, object]:
    """All that is below a folder, nothing followed: kind, mode and content."""
    made: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        about: object = "folder"
        if path.is_symlink():
            about = os.readlink(path)
        elif path.is_file():
            about = path.read_bytes(), path.stat().st_mode
        made[str(path.relative_to(top))] = about
    return made


@pytest.mark.slow
@pytest.mark.parametrize("verb", [slow(x) if x in LONG else x for x in VERBS])
def test_nothing_is_written_through_a_link(verb: str, given: Given, tmp_path: Path) -> None:
    act, folder, outside = VERBS[verb], tmp_path / "four", tmp_path / "outside"
    shutil.copytree(given.folder, folder)
    names = names_of(act, folder, given)
    clean = all_bytes(folder)
    for name in names:
        for kind in KINDS:
            shutil.rmtree(folder)
            shutil.rmtree(outside, ignore_errors=True)
            shutil.copytree(given.folder, folder)
            (outside / "inner").mkdir(parents=True)
            (outside / "inner" / "mine").write_text("mine")
            (outside / "victim").write_text("mine")
            (outside / "victim").chmod(0o640)
            if not plant(folder / name, kind, outside):
                continue
            there, around = tree(outside), tree(folder)
            with changes() as paths:
                code = ran(act(folder, given))
            assert tree(outside) == there, (name, kind)
            opened = [x for x in paths if Path(os.path.realpath(x)).is_relative_to(outside)]
            assert [x for x in opened if not Path(x).is_relative_to(folder)] == [], (name, kind)
            assert tree(folder) == around or code == 0, (name, kind)
            if kind == "moved" and code == 0:
                assert all_bytes(folder) == clean, (name, kind)


def test_a_link_that_was_replaced_is_a_file_of_the_bundle(given: Given, tmp_path: Path) -> None:
    """As in the cache of a hub, where every file is a link to a shared one."""
    folder, shared = tmp_path / "four", tmp_path / "shared"
    shutil.copytree(given.folder, shared)
    folder.mkdir()
    for file in shared.iterdir():
        (folder / file.name).symlink_to(file)
    before = tree(shared)
    for arguments in (
        ["add", folder, given.adapters["e"]],
        ["add", folder, f"a={given.adapters['f']}", "--replace"],
        ["rename", folder, "b", "x"],
        ["remove", folder, "c"],
    ):
        assert ran(list(arguments)) == 0
    assert sorted(open_bundle(folder)) == ["a", "d", "e", "x"]
    assert tree(shared) == before


def test_a_hard_link_at_the_name_of_the_lock_keeps_its_content(
    given: Given, tmp_path: Path
) -> None:
    """Archives hold hard links, and unpacking them makes some to files that are there."""
    folder = Path(shutil.copytree(given.folder, tmp_path / "four"))
    victim = tmp_path / "victim"
    victim.write_text("mine, and longer than a number")
    os.link(victim, folder / ".tasks.lock")
    assert ran(["remove", folder, "a"]) == 0
    assert victim.read_text() == "mine, and longer than a number"
    assert sorted(open_bundle(folder)) == ["b", "c", "d"]


def test_a_link_to_an_output_is_followed_elsewhere(given: Given, tmp_path: Path) -> None:
    real = tmp_path / "v1.hydra.safetensors"
    shutil.copy(given.file, real)
    link = tmp_path / "latest.hydra.safetensors"
    link.symlink_to(real.name)
    assert ran(["remove", link, "a"]) == 0
    assert link.is_symlink()
    assert sorted(open_bundle(real)) == ["b", "c", "d"]
    assert ran(["shrink", given.file, "--error", "0.5", "-o", link]) == 0
    assert link.is_symlink()
    assert sorted(open_bundle(real)) == ["a", "b", "c", "d"]


def test_a_link_to_the_folder_is_followed(given: Given, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(given.folder, tmp_path / "four"))
    (tmp_path / "latest").symlink_to(folder.name)
    for arguments in (
        ["remove", tmp_path / "latest", "a"],
        ["split", given.file, "-o", tmp_path / "latest", "--force"],
    ):
        assert ran(list(arguments)) == 0
        assert (tmp_path / "latest").is_symlink()
    assert sorted(open_bundle(folder)) == ["a", "b", "c", "d"]


def test_a_link_that_leads_through_a_bundle_is_refused(given: Given, tmp_path: Path) -> None:
    """Also where the output itself is a link of the user's, or names a folder by one in there."""
    folder = Path(shutil.copytree(given.folder, tmp_path / "four"))
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder / "sub").symlink_to(outside)
    (tmp_path / "mine").symlink_to(folder / "sub")
    for output in (folder / "sub" / "x.hydra.safetensors", tmp_path / "mine" / "x"):
        assert ran(["shrink", given.file, "--error", "0.5", "-o", output]) == 2
    assert ran(["split", given.file, "-o", tmp_path / "mine"]) == 2
    assert ran(["export", given.file, "a", "-o", tmp_path / "mine"]) == 2
    assert list(outside.iterdir()) == []
