"""A result of several commands says which of them made which part."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.speed import fleet

ROW = {
    "numbers": 10, "tasks": 1, "workers": 1, "cpu": [1.0], "read": 1, "peaks": [1], "bytes": 1,
    "fp16_bytes": 2,
}  # fmt: skip


def test_each_part_keeps_its_own_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "run", lambda _: iter([ROW]))
    monkeypatch.setattr(fleet, "run_small", lambda _: ROW)
    monkeypatch.setattr(fleet, "run_forty", lambda _: [ROW])

    def told(*words: str) -> dict[str, str]:
        monkeypatch.setattr(sys, "argv", ["fleet", *words])
        fleet.main([*words, "--out", str(tmp_path / "fleet.json")])
        result = json.loads((tmp_path / "fleet.json").read_text())
        assert result["command"] == "; ".join(result["commands"].values())
        return {part: said.partition(" fleet")[2] for part, said in result["commands"].items()}

    rows = told("--tasks", "1")
    assert list(rows) == ["rows"]
    assert told("--small", "7").keys() == {"rows", "small"}
    parts = told("--forty")
    assert parts.keys() == {"rows", "small", "forty"}
    assert told("--paper") == parts
    assert len(set(parts.values())) == 3
