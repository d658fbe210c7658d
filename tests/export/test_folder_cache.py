"""Folders of exported adapters: what the cache removes, and what it leaves."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hydraopt.bundle import CONFIG, WEIGHTS
from hydraopt.export.servants import FolderCache


def test_what_is_handed_out_while_others_go_stays(tmp_path: Path, monkeypatch) -> None:
    """Times are looked up before anything goes, which may take a while."""
    cache = FolderCache(tmp_path, 0)
    one, other, new = (kept(tmp_path, digit) for digit in "abc")
    real = shutil.rmtree

    def rmtree(home: Path, **how: bool) -> None:
        real(home, **how)
        os.utime(other)  # as if it were asked for just now

    monkeypatch.setattr("hydraopt.export.servants.shutil.rmtree", rmtree)
    cache._trim(new)
    assert sorted(x for x in tmp_path.iterdir() if x.is_dir()) == [other, new]
    assert not one.exists()


def kept(root: Path, digit: str) -> Path:
    """A folder as the cache makes it, last asked for long ago."""
    home = root / (digit * 16)
    (home / "de").mkdir(parents=True)
    for name in (CONFIG, WEIGHTS):
        (home / "de" / name).write_bytes(b"x" * 100)
    os.utime(home, (1, 1))
    return home


def test_what_the_cache_did_not_make_stays(tmp_path: Path) -> None:
    """Somebody may name a folder that has adapters of their own."""
    mine = {}
    for name in ("my-adapter", "models--org--base", "0" * 15, "A" * 16, "d" * 16):
        mine[name] = tmp_path / name / WEIGHTS
        mine[name].parent.mkdir()
        mine[name].write_bytes(b"x" * 1000)
    half = tmp_path / ("e" * 16)
    (half / ".de.tmp").mkdir(parents=True)
    for folder in (*(x.parent for x in mine.values()), half):
        os.utime(folder, (1, 1))
    own, new = kept(tmp_path, "a"), kept(tmp_path, "c")
    cache = FolderCache(tmp_path, 250)
    cache._trim(new)
    assert all(x.exists() for x in mine.values())
    assert new.exists()
    assert not own.exists()
    cache.most = 0
    cache._trim(new)
    assert all(x.exists() for x in mine.values())
    assert not half.exists()
