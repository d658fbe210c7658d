"""What is stored of results holds for the same source alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hydraopt import version as sources
from hydraopt.version import source_hash

PACKAGE = Path(sources.__file__).parent


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of two packages and a module, hashed in place of the installed ones."""
    for name in ("codec", "evaluate", "notes.py"):
        place = PACKAGE / name
        copy = shutil.copytree if place.is_dir() else shutil.copy
        copy(place, tmp_path / name)
    monkeypatch.setattr(sources, "PACKAGE", tmp_path)
    source_hash.cache_clear()
    yield tmp_path
    source_hash.cache_clear()


def test_a_change_of_code_gives_another_hash(copied: Path) -> None:
    before = {name: source_hash(name) for name in ("codec", "evaluate", "notes")}
    assert len(set(before.values())) == 3
    (copied / "codec" / "matrices.py").write_text("changed = True")
    (copied / "notes.py").write_text("changed = True")
    source_hash.cache_clear()
    after = {name: source_hash(name) for name in before}
    assert {name for name in before if before[name] != after[name]} == {"codec", "notes"}


def test_a_moved_file_gives_another_hash(copied: Path) -> None:
    before = source_hash("codec")
    (copied / "codec" / "matrices.py").rename(copied / "codec" / "zzz.py")
    source_hash.cache_clear()
    assert source_hash("codec") != before


def test_the_order_of_packages_does_not_matter(copied: Path) -> None:
    assert source_hash("codec", "evaluate") == source_hash("evaluate", "codec")
    assert source_hash("codec", "evaluate") != source_hash("codec")


def test_a_package_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing"):
        source_hash("nothing")
