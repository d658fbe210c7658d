"""Bytes put aside come back, from memory and from the file that they outgrow it into."""

from __future__ import annotations

import errno
import io
import os
import tempfile

import pytest

from hydraopt.files import aside as aside_module
from hydraopt.files.aside import Aside, Chosen, Laid, Replaced, sizes_of

SOME = [b"", b"one", b"\0" * 5, bytes(range(256)) * 40]


@pytest.mark.parametrize("most", [1, 1 << 20])
def test_bytes_come_back_and_are_replaced(tmp_path, monkeypatch, most) -> None:
    monkeypatch.setattr(aside_module, "MOST", most)
    aside = Aside(tmp_path)
    places = [aside.put(data) for data in SOME]
    assert [aside.read(place) for place in places] == SOME
    aside.write(places[1], b"two")
    assert aside.read(places[1]) == b"two"
    assert aside.read(aside.put(b"more")) == b"more"
    assert list(Laid(aside, places)) == [b"", b"two", *SOME[2:]]
    assert Laid(aside, places)[-2:] == SOME[-2:]
    with pytest.raises(IndexError):
        Laid(aside, places)[4]


def test_the_file_goes_with_the_object(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(aside_module, "MOST", 1)
    aside = Aside(tmp_path)
    aside.put(b"enough")
    file = aside._file
    del aside
    assert file.closed
    assert not list(tmp_path.iterdir())


class _Full(io.FileIO):
    """A file on a disk that takes some bytes, then no more."""

    left = 0

    def write(self, data) -> int:  # type: ignore[no-untyped-def]
        taken = min(len(data), self.left)
        if not taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        type(self).left -= taken
        return super().write(data[:taken])


@pytest.mark.parametrize("room", [0, 2, 9])
def test_a_full_disk_is_refused_at_once_and_loses_nothing(tmp_path, monkeypatch, room) -> None:
    monkeypatch.setattr(aside_module, "MOST", 4)
    monkeypatch.setattr(_Full, "left", room)
    made: list[_Full] = []

    def make(**options: object) -> _Full:
        made.append(_Full(tmp_path / "file", "w+"))
        return made[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", make)
    aside = Aside(tmp_path)
    place = aside.put(b"1234")
    for _ in range(2):
        with pytest.raises(OSError, match=f"Errno {errno.ENOSPC}") as caught:
            aside.put(b"5" * 10)
        assert caught.value.filename == str(tmp_path)
        assert aside.read(place) == b"1234"
    assert room > 4 or all(file.closed for file in made)
    monkeypatch.setattr(_Full, "left", 100)
    assert aside.read(aside.put(b"67890")) == b"67890"
    assert aside.read(place) == b"1234"


def test_some_take_the_places_of_others_and_are_read_when_asked_for(tmp_path) -> None:
    aside = Aside(tmp_path)
    laid = Laid(aside, [aside.put(data) for data in SOME])
    mixed = Replaced(laid, [b"other", b"longer"], {1: 1, 3: 0})
    assert sizes_of(mixed) == [0, 6, 5, 5]
    assert list(mixed) == [b"", b"longer", SOME[2], b"other"]
    assert mixed[-3:] == [b"longer", SOME[2], b"other"]
    assert mixed[-1] == b"other"
    with pytest.raises(IndexError):
        mixed[4]


def test_a_choice_reads_what_is_asked_for() -> None:
    read: list[int] = []

    class Noted(list[bytes]):
        def __getitem__(self, index):  # type: ignore[no-untyped-def]
            read.append(index)
            return super().__getitem__(index)

    chosen = Chosen((Noted(SOME), [3, 0]), ((b"x", b"y"), range(2)))
    assert len(chosen) == 4
    assert not read
    assert chosen[0] == SOME[3]
    assert chosen[2:] == [b"x", b"y"]
    assert read == [3]
    assert list(chosen) == [SOME[3], b"", b"x", b"y"]


def test_sizes_are_known_without_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    aside = Aside()
    laid = Laid(aside, [aside.put(data) for data in SOME])
    monkeypatch.setattr(Aside, "read", lambda *_: pytest.fail("read"))
    assert [*sizes_of(laid)] == [*sizes_of(SOME)] == [len(data) for data in SOME]
    assert [*sizes_of(Chosen((laid, [3, 0]), ((b"xy",), [0])))] == [len(SOME[3]), len(SOME[0]), 2]
