"""Bytes put aside come back, from memory and from the file that they outgrow it into."""

from __future__ import annotations

import errno
import io
import os
import tempfile

import pytest

from hydraopt.codec import Aside, Chosen, Laid, Place, aside as aside_module, sizes_of

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


def test_chosen_ones_are_read_when_asked_for(tmp_path, monkeypatch) -> None:
    aside = Aside(tmp_path)
    laid = Laid(aside, [aside.put(data) for data in SOME])
    read: list[Place] = []
    real = Aside.read
    monkeypatch.setattr(Aside, "read", lambda x, place: (read.append(place), real(x, place))[1])
    chosen = Chosen((laid, [3, 0]), ((b"x", b"yz"), range(2)))
    assert (len(chosen), [*chosen.sizes], read) == (4, [len(SOME[3]), 0, 1, 2], [])
    assert (chosen[0], chosen[2:], len(read)) == (SOME[3], [b"x", b"yz"], 1)
    assert list(chosen) == [SOME[3], b"", b"x", b"yz"]


def test_sizes_are_known_without_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    aside = Aside()
    laid = Laid(aside, [aside.put(data) for data in SOME])
    monkeypatch.setattr(Aside, "read", lambda *_: pytest.fail("read"))
    assert [*sizes_of(laid)] == [*sizes_of(SOME)] == [len(data) for data in SOME]
