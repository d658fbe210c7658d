"""Bundles of eight tasks: the KL with shared parts over that with private ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.reports import started as module
from benchmarks.reports.started import shared


def test_sharing_is_compared_at_sizes_that_both_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUALITY", tmp_path)
    assert shared() == "Not measured yet.\n"
    kl = {"private 5% 8": 0.02, "unknown 5% 8": 0.03, "unknown 3% 8": 0.05, "private 5% 1": 0.09}
    merges = {x: {task: {"share": 0.05, "kl": y} for task in "ab"} for x, y in kl.items()}
    (tmp_path / "some.known-start.json").write_text(json.dumps({"merges": merges}))
    (line,) = shared().splitlines()[2:]
    assert line == "| `some`, 8 | 5.0 % | 0.02 | 0.03 | 1.50 |"
