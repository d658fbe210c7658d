"""The archive of the evidence adapters."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.fetch import ArchiveError, fetch, pack

SETS = ("first", "second")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in SETS:
        for task in ("b", "a"):
            folder = tmp_path / "sets" / name / task
            folder.mkdir(parents=True)
            (folder / "adapter_model.safetensors").write_bytes(f"{name} {task}".encode() * 1000)
    return tmp_path / "sets"


def test_the_same_files_give_the_same_archive_and_come_back(place: Path, tmp_path: Path) -> None:
    made = pack(place, tmp_path / "one.tar", SETS)
    scratch = place / "first" / ".c.partial"
    scratch.mkdir()
    (scratch / "checkpoint.pt").touch()
    (place / "first" / "a" / "adapter_model.safetensors").touch()
    assert pack(place, tmp_path / "two.tar", SETS) == made
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    mine = tmp_path / "mine" / "second" / "mine"
    mine.parent.mkdir(parents=True)
    mine.touch()
    assert fetch(str(tmp_path / "one.tar"), tmp_path / "mine", made) == ["first"]
    file = Path("first") / "b" / "adapter_model.safetensors"
    assert (tmp_path / "mine" / file).read_bytes() == (place / file).read_bytes()
    assert [x.name for x in mine.parent.iterdir()] == ["mine"]


@pytest.mark.parametrize("damage", ["another byte", "cut", "longer"])
def test_another_archive_is_refused(place: Path, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "sets.tar"
    made = pack(place, path, SETS)
    data = path.read_bytes()
    other = {"another byte": b"x" + data[1:], "cut": data[:-1], "longer": data + b"x"}
    path.write_bytes(other[damage])
    with pytest.raises(ArchiveError, match="another archive"):
        fetch(str(path), tmp_path / "to", made)
    assert not list((tmp_path / "to").iterdir())


def test_a_set_that_is_missing_is_named(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="third"):
        pack(place, tmp_path / "sets.tar", (*SETS, "third"))
    assert not (tmp_path / "sets.tar").exists()
