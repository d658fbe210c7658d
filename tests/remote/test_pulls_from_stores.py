"""Pulls from stores that can be written: memory, and S3 by moto."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hydraopt import open_bundle
from hydraopt.bundle import pull
from hydraopt.errors import TaskNotFoundError, UsageError
from hydraopt.files import INDEX_NAME
from tests.editing.living import state
from tests.remote.conftest import at_address

Upload = Callable[[Path, str], None]


def test_pull_writes_the_files_of_a_task(
    both: Path, bucket: str, upload: Upload, apart: Path, tmp_path: Path
) -> None:
    address = at_address(both, bucket, upload)
    folder = tmp_path / "pulled"
    done = pull(address, folder, ["b"])
    names = {"four.core.safetensors", "b.task.safetensors"}
    assert {file.name for file in done.files} == {*names, INDEX_NAME}
    assert state(folder) == {x: data for x, data in state(apart).items() if x in names}
    more = pull(address, folder, ["a", "b"])
    added = {"a.task.safetensors", "b.task.safetensors"}
    assert {file.name for file in more.files} == {*added, INDEX_NAME}
    assert list(open_bundle(folder)) == ["a", "b"]
    with pytest.raises(TaskNotFoundError):
        pull(address, folder, ["z"])
    whole = tmp_path / "whole"
    pull(address, whole)
    assert state(whole) == state(both)
    pull(address, whole)
    assert state(whole) == state(both)


def test_pull_into_the_cache_is_what_the_next_reader_needs(
    both: Path, bucket: str, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = at_address(both, bucket, upload)
    assert pull(address, None, ["b"]).fetched > 0
    bundle = open_bundle(address, tasks=["b"])
    before = bundle.fetched
    bundle["b"].factors()
    assert bundle.fetched == before
    monkeypatch.setenv("HYDRAOPT_CACHE_SIZE", "100")
    with pytest.raises(UsageError):
        pull(address, None, ["b"])
