"""Where a task came from, in the manifest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hydraopt.bundle.bounds import count_entries
from hydraopt.bundle.history import Added
from hydraopt.bundle.spec import Manifest
from hydraopt.collection.opening import open_bundle
from hydraopt.errors import BundleFormatError
from tests.bundle.bundles import tiny

ADDED = Added("2026-02-28", "0123456789abcdef")


def with_history() -> Any:
    parts = tiny()
    tasks = parts.manifest.tasks
    first = replace(tasks[0], added=ADDED)
    return replace(parts, manifest=replace(parts.manifest, tasks=(first, *tasks[1:])))


def test_it_comes_back(tmp_path: Path) -> None:
    parts = with_history()
    parts.write(tmp_path / "b")
    names = [task.name for task in parts.manifest.tasks]
    said = {name: task.entry.added for name, task in open_bundle(tmp_path / "b").items()}
    assert said == {**dict.fromkeys(names), names[0]: ADDED}


def test_without_any_nothing_is_said() -> None:
    assert "added" not in tiny().manifest.to_json()["tasks"]
    assert with_history().manifest.to_json()["tasks"]["added"][0] == [ADDED.day, ADDED.digest]


@pytest.mark.parametrize(
    "value",
    [
        [],
        ["2026-02-28"],
        ["2026-02-28", "0123456789abcdef", 1],
        ["2026-02-29", "0123456789abcdef"],
        ["20260228", "0123456789abcdef"],
        ["2026-W09-6", "0123456789abcdef"],
        ["2026-02-28", "0123456789ABCDEF"],
        ["2026-02-28", "0123456789abcde"],
        ["2026-02-28", "0123456789abcdef\n"],
        ["２０２６-02-28", "0123456789abcdef"],
        [20260228, "0123456789abcdef"],
        ["2026-02-28", None],
        "2026-02-28",
        {"day": "2026-02-28"},
    ],
)
def test_nonsense_is_refused(value: Any) -> None:
    manifest = with_history().manifest.to_json()
    manifest["tasks"]["added"][0] = value
    with pytest.raises(BundleFormatError):
        Manifest.from_json(manifest)


def test_it_counts_as_two_entries() -> None:
    before, after = (x.manifest.to_json() for x in (tiny(), with_history()))
    assert count_entries(after) == count_entries(before) + 2
