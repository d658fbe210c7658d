"""What a folder on this machine is said to hold, while others write to it."""

from __future__ import annotations

import os
from pathlib import Path

from hydraopt.files import Entry, files_in, stores as folders


class _Going:
    """A list of a folder, of which a file goes before anybody asks for its size."""

    def __init__(self, listed: list[os.DirEntry[str]], gone: Path) -> None:
        self._listed, self._gone = listed, gone

    def __enter__(self) -> list[os.DirEntry[str]]:
        self._gone.unlink()
        return self._listed

    def __exit__(self, *error: object) -> None:
        pass


def test_a_file_that_goes_while_it_is_listed_is_left_out(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / ".four.lock").touch()
    (tmp_path / "stays").write_bytes(b"12")
    with os.scandir(tmp_path) as inside:
        going = _Going(list(inside), tmp_path / ".four.lock")
    monkeypatch.setattr(folders.os, "scandir", lambda folder: going)
    (entry,) = files_in(tmp_path) or ()
    assert (entry.name, entry.size) == ("stays", 2)


def test_a_link_to_nothing_is_listed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "inside").mkdir()
    assert files_in(tmp_path) == [Entry("inside", True), Entry("link", False)]
