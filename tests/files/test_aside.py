"""Bytes put aside come back, from memory and from the file that they outgrow it into."""

from __future__ import annotations

import pytest

from hydraopt.files import aside as aside_module
from hydraopt.files.aside import Aside, Chosen, Laid

SOME = [b"", b"one", b"\0" * 5, bytes(range(256)) * 40]


@pytest.mark.parametrize("most", [1, 1 << 20])
def test_bytes_come_back_and_are_replaced(tmp_path, monkeypatch, most) -> None:
    monkeypatch.setattr(aside_module, "_MOST", most)
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
    monkeypatch.setattr(aside_module, "_MOST", 1)
    aside = Aside(tmp_path)
    aside.put(b"enough")
    file = aside._file
    del aside
    assert file.closed
    assert not list(tmp_path.iterdir())


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
