"""A folder of a core and its tasks: a task file that is damaged costs that task alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hydraopt.bundle import split
from tests.native.conftest import GOLDEN, LAYOUTS, Run
from tests.native.mutants import Pieces

SECOND = GOLDEN / "second.hydra.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tasks de, fr and same, apart."""
    split(SECOND, tmp_path / "apart")
    return tmp_path / "apart"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def not_read(file: Path) -> None:
    file.unlink()
    file.mkdir()


def change(file: Path) -> None:
    """A byte of the manifest, in which its checksum finds it."""
    data = bytearray(file.read_bytes())
    data[8 + int.from_bytes(data[:8], "little") + 20] ^= 1
    file.write_bytes(data)


def stranger(file: Path) -> None:
    split(LAYOUTS[0] / "bundle.hydra.safetensors", file.parent.parent / "other")
    next((file.parent.parent / "other").glob("*.task.safetensors")).replace(file)


def core(file: Path) -> None:
    shutil.copy(next(file.parent.glob("*.core.safetensors")), file)


def unusable(file: Path) -> None:
    """Found when its blobs and config are read already."""
    pieces = Pieces.of(file.read_bytes())
    pieces.text = pieces.text.replace(b'"de"', b'"d/"')
    file.write_bytes(pieces.pack())


BAD = [cut, not_read, change, stranger, core, unusable]


@pytest.mark.parametrize("spoil", BAD, ids=lambda x: x.__name__)
def test_a_bad_task_file_costs_that_task(
    run: Run, folder: Path, spoil: Callable[[Path], None]
) -> None:
    bad, out = folder / "de.task.safetensors", folder.parent / "out"
    spoil(bad)
    done = run("list", folder)
    assert done.returncode == 1
    assert [line.split()[-1] for line in done.stdout.splitlines()[2:]] == ["fr", "same"]
    assert done.stderr.startswith(f"hydra: {bad}: ")
    assert done.stderr.count("\n") == 1
    done = run("extract", folder, "fr", "-o", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert (out / "adapter_config.json").exists()
    done = run("extract", folder, "de", "-o", folder.parent / "none")
    assert done.returncode == 1
    assert f"hydra: {bad}: " in done.stderr
    assert "'de'" in done.stderr
    done = run("verify", folder)
    assert done.returncode == (1 if spoil is not core else 2)
    assert str(bad) in done.stderr


def test_a_copy_beside_its_task_is_named(run: Run, folder: Path) -> None:
    copy = folder / "de (1).task.safetensors"
    shutil.copy(folder / "de.task.safetensors", copy)
    done = run("list", folder)
    assert done.returncode == 1
    assert [line.split()[-1] for line in done.stdout.splitlines()[2:]] == ["de", "fr", "same"]
    assert done.stderr == (
        f"hydra: {copy}: two tasks are named 'de'. Remove the file that is one too many\n"
    )
    for i, name in enumerate(("de", "fr")):
        done = run("extract", folder, name, "-o", folder.parent / f"out-{i}")
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["de~2", "De", "other"])
def test_a_task_is_found_whatever_its_file_is_called(run: Run, folder: Path, name: str) -> None:
    (folder / "de.task.safetensors").rename(folder / f"{name}.task.safetensors")
    done = run("extract", folder, "de", "-o", folder.parent / "out")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_damaged_core_is_its_own_error(run: Run, folder: Path) -> None:
    (file,) = folder.glob("*.core.safetensors")
    cut(file)
    for words in (("list", folder), ("extract", folder, "de", "-o", folder.parent / "out")):
        done = run(*words)
        assert done.returncode == 1
        assert done.stderr.startswith(f"hydra: {file}: ")
        assert done.stderr.count("\n") == 1


def test_two_cores_are_refused(run: Run, folder: Path) -> None:
    (file,) = folder.glob("*.core.safetensors")
    shutil.copy(file, folder / "another.core.safetensors")
    done = run("list", folder)
    assert done.returncode == 2
    assert ".core.safetensors" in done.stderr


def test_other_files_than_the_wanted_one_are_not_opened(run: Run, folder: Path) -> None:
    for file in folder.glob("*.task.safetensors"):
        if file.name != "fr.task.safetensors":
            file.unlink()
            os.mkfifo(file)  # would be named, as no regular file
    done = run("extract", folder, "fr", "-o", folder.parent / "out")
    assert (done.returncode, done.stderr) == (0, "")
