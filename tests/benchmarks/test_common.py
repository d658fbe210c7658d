"""Results that several runs write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.common import append_rows, begun

HEAD = {"set": "a", "count": 3}


def test_rows_join_those_of_other_runs_once(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    one, two = ({"task": x, "limit": 1, "found": x} for x in "ab")
    append_rows(path, HEAD, ("count",), [one], ("task", "limit"))
    append_rows(path, HEAD, ("count",), [two], ("task", "limit"))  # of a run beside the first
    append_rows(path, HEAD, ("count",), [{**one, "found": "again"}], ("task", "limit"))
    assert begun(path, HEAD, ("count",)) == [one, two]


def test_rows_of_another_run_are_not_joined(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    append_rows(path, HEAD, ("count",), [{"task": "a"}], ("task",))
    before = path.read_bytes()
    with pytest.raises(SystemExit, match="other count"):
        append_rows(path, {**HEAD, "count": 4}, ("count",), [{"task": "b"}], ("task",))
    assert path.read_bytes() == before
    assert json.loads(before)["count"] == 3
