"""The default's tables say what its result file says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.reports import default

ONE = {"bytes": 5000, "size_pct": 5.0, "worst_error": 0.049, "mean_error": 0.04, "passes": 2}


def test_sizes_and_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "QUALITY", tmp_path)
    assert default.default() == "Not measured yet.\n"
    merges = [
        {"name": "ten", "fp16_bytes": 100_000, "default": ONE, "beside": {"refused": "no"}},
        {"name": "a/b", "fp16_bytes": 100_000, "default": ONE, "beside": ONE},
        {"name": "none", "refused": "file holds no LoRA matrices"},
    ]
    (tmp_path / "default.json").write_text(json.dumps({"merges": merges}))
    assert default.default().splitlines()[2:] == [
        "| ten | 5,000 | 5.0 % | 0.049 | 0.040 | refused |"
    ]
    ten, other, none = default.merges()[1]
    assert ten == ["ten", 100_000, 5000, "5.0 %", "0.049", "0.040", "refused", ""]
    assert other[-2] == "0.049"
    assert (none[0], none[-1]) == ("none", "file holds no LoRA matrices")
