"""Answers that are kept: the same merge goes on, and nothing else is taken for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hydraopt import merge
from hydraopt.codec import ModuleCore
from hydraopt.merging import Local, servant
from hydraopt.merging.servant import Shards
from tests.merging.merge_cases import modules_of


def test_an_answer_is_made_once(tmp_path: Path) -> None:
    made = []

    def make() -> tuple[list[float], bytes]:
        made.append(1)
        return [0.1 + 0.2, 1e-300], b"\x00data"

    shards = Shards(tmp_path / "new" / "work")
    assert shards.answer(["a", 0.1], make) == ([0.1 + 0.2, 1e-300], b"\x00data")
    assert shards.answer(["a", 0.1], make) == ([0.1 + 0.2, 1e-300], b"\x00data")
    assert len(made) == 1
    shards.answer(["a", 0.1 + 1e-17 + 2e-17], make)
    assert len(made) == 2


@pytest.mark.parametrize("damage", ["cut", "turned", "emptied"])
def test_a_damaged_answer_is_made_again(tmp_path: Path, damage: str) -> None:
    shards = Shards(tmp_path)
    shards.answer([1], lambda: ({"x": 1}, b"before"))
    (file,) = tmp_path.glob("*/*.shard")
    data = file.read_bytes()
    other = {"cut": data[:-1], "turned": data[:-1] + b"X", "emptied": b""}
    file.write_bytes(other[damage])
    assert shards.answer([1], lambda: ({"x": 1}, b"after")) == ({"x": 1}, b"after")
    assert shards.answer([1], lambda: ({}, b"")) == ({"x": 1}, b"after")


def encoded(monkeypatch: pytest.MonkeyPatch) -> list[ModuleCore]:
    """The modules that are encoded and not found done."""
    done: list[ModuleCore] = []
    encode_module = servant.encode_module

    def noted(core: ModuleCore, *more):
        done.append(core)
        return encode_module(core, *more)

    monkeypatch.setattr(servant, "encode_module", noted)
    return done


def test_a_merge_that_was_ended_goes_on(three, tmp_path, monkeypatch) -> None:
    done = encoded(monkeypatch)
    merge(three, tmp_path / "whole", error=0.2, workers=1)
    whole = len(done)
    done.clear()

    class Ended(Exception):
        pass

    def ends(stage: str, at: int, total: int) -> None:
        if stage != "reading" and at == total:
            raise Ended

    with pytest.raises(Ended):
        merge(three, tmp_path / "out", error=0.2, workers=Local(1, tmp_path / "w"), progress=ends)
    assert 0 < len(done) < whole
    assert not (tmp_path / "out").exists()
    merge(three, tmp_path / "out", error=0.2, workers=Local(1, tmp_path / "w"))
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    assert len(done) == whole  # together as many as in one go
    merge(three, tmp_path / "twice", error=0.2, workers=Local(1, tmp_path / "w"))
    assert len(done) == whole
    assert (tmp_path / "twice").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.slow
def test_other_adapters_and_other_options_find_nothing_of_these(
    make_adapter, three, tmp_path, monkeypatch
) -> None:
    done = encoded(monkeypatch)
    other = modules_of(2)
    other["h.0.q"][0][0, 0] += 0.5
    changed = make_adapter(tmp_path / "changed" / "c", other)
    for adapters, more in (
        (three, {}),
        ([*three[:2], changed], {}),
        (three, {"measure": "frobenius", "forms": ["private"]}),
    ):
        before = len(done)
        kept = {"size": "20%", **more}
        merge(adapters, tmp_path / "kept", workers=Local(1, tmp_path / "w"), **kept)
        assert len(done) > before
        merge(adapters, tmp_path / "plain", workers=1, **kept)
        assert (tmp_path / "kept").read_bytes() == (tmp_path / "plain").read_bytes()


def test_memory_changes_no_byte(three, tmp_path) -> None:
    for memory in (1, 10**6, None):
        merge(three, tmp_path / f"{memory}", error=0.2, workers=Local(1, None, memory))
    assert len({path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}) == 1


def kept_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.shard"))


def test_answers_that_changed_places_are_made_again(three, tmp_path, monkeypatch) -> None:
    """Each file is whole, and has the answer to another question."""
    done, work = encoded(monkeypatch), tmp_path / "w"
    merge(three, tmp_path / "whole", error=0.2, workers=Local(1, work))
    files, whole = kept_in(work), len(done)
    data = [file.read_bytes() for file in files]
    for file, other in zip(files, [*data[1:], data[0]], strict=True):
        file.write_bytes(other)
    merge(three, tmp_path / "again", error=0.2, workers=Local(1, work))
    assert (tmp_path / "again").read_bytes() == (tmp_path / "whole").read_bytes()
    assert len(done) == 2 * whole
    assert [file.read_bytes() for file in files] == data


@pytest.mark.parametrize("kind", ["fifo", "folder", "round", "dangling"])
def test_what_is_no_file_is_no_answer(tmp_path: Path, kind: str) -> None:
    shards = Shards(tmp_path / "work")
    shards.answer([1], lambda: ({"x": 1}, b"before"))
    (file,) = kept_in(tmp_path / "work")
    file.unlink()
    victim = tmp_path / "victim"
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to(file.name if kind == "round" else victim)
    if kind in ("fifo", "folder"):
        with pytest.raises(OSError, match="not a regular file"):
            shards.answer([1], lambda: ({"x": 1}, b"after"))
        return
    assert shards.answer([1], lambda: ({"x": 1}, b"after")) == ({"x": 1}, b"after")
    assert not file.is_symlink()
    assert not victim.exists()
