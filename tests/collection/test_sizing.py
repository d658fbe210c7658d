"""The bytes of a folder are known before it is written, the index's but for a few."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from hydraopt.bundle import size_apart, split
from hydraopt.bundle.folder import renew_index
from hydraopt.bundle.index import packed_index, read_index
from hydraopt.files import INDEX_NAME
from tests.bundle.bundles import tiny


@pytest.mark.parametrize("count", [1, 3, 40])
def test_a_folder_takes_hardly_less_than_is_said(count: int, tmp_path: Path) -> None:
    names = [f"task-{i * 7919 % 1000}" for i in range(count)]
    parts = tiny(names, seed=count)
    parts.write(tmp_path / "some.hydra.safetensors")
    split(tmp_path / "some.hydra.safetensors", tmp_path / "some")
    said = size_apart("some.core.safetensors", *parts.args)
    files = sorted((tmp_path / "some").iterdir())
    there = sum(file.stat().st_size for file in files)
    assert there <= said <= there + 300 + 24 * count
    # However the times of the files differ.
    for i, file in enumerate(files):
        late = file.stat().st_mtime_ns - i * 104_729_000_003
        os.utime(file, ns=(late, late))
    (tmp_path / "some" / INDEX_NAME).unlink()
    renew_index(tmp_path / "some")
    assert sum(file.stat().st_size for file in files) <= said


@pytest.mark.parametrize("name", ["x" * 221, "\u7d50\u679c" * 36, "\u0416\u00e9" * 55, "a"])
def test_the_name_of_the_core_changes_nothing_and_has_room(name: str, tmp_path: Path) -> None:
    parts = tiny()
    parts.write(tmp_path / f"{name}.safetensors")
    split(tmp_path / f"{name}.safetensors", tmp_path / "some")
    there = sum(file.stat().st_size for file in (tmp_path / "some").iterdir())
    said = size_apart(f"{name}.core.safetensors", *parts.args)
    assert there <= said == size_apart("some.core.safetensors", *parts.args)


def test_what_is_said_counts_the_index(tmp_path: Path) -> None:
    parts = tiny()
    parts.write(tmp_path / "some.hydra.safetensors")
    files = split(tmp_path / "some.hydra.safetensors", tmp_path / "some")
    said = size_apart("some.core.safetensors", *parts.args)
    assert said > sum(file.size for file in files) + 300


def test_a_store_may_mark_objects_with_the_hash_of_git(tmp_path: Path) -> None:
    parts = tiny([f"task-{i}" for i in range(100)])
    parts.write(tmp_path / "some.hydra.safetensors")
    split(tmp_path / "some.hydra.safetensors", tmp_path / "some")
    index = read_index(tmp_path / "some", None)
    assert index is not None
    marked = [
        replace(x, mark=hashlib.sha1(name.encode()).hexdigest()) for name, x in index.files.items()
    ]
    there = packed_index((index.core, index.core_id), marked).size
    there += sum(x.stat().st_size for x in (tmp_path / "some").iterdir() if x.name != INDEX_NAME)
    assert there <= size_apart(index.core, *parts.args)
