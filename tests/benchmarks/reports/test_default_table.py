"""The default's tables say what its result file says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.reports import default
from tests.benchmarks.quality.test_default import made_up

ONE = {"bytes": 5000, "size_pct": 5.0, "worst_error": 0.049, "mean_error": 0.04, "passes": 2}


def test_sizes_and_expected_drops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "QUALITY", tmp_path)
    assert default.default() == "Not measured yet.\n"
    reading = {"limit": 0.05, "recipe": "a", "size_pct": 27.0, "drop_pct": 0.1}
    result = {
        "limit": {"max_error": 0.05},
        "laws": [
            {"up_to_error": 1.0, "power": 2.0, "powers": [1.5, 2.5]},
            {"up_to_error": 0.4, "power": 1.2, "powers": [1.0, 4.0]},
        ],
        "readings": [{**reading, "drop_range": [0.0, 0.3]}],
        "measured": made_up("a", 40.0, 2.0),
        "merges": [
            {"name": "ten", "fp16_bytes": 100_000, "default": ONE, "before": {"refused": "no"}},
            {"name": "none", "refused": "file holds no LoRA matrices"},
        ],
    }
    (tmp_path / "default.json").write_text(json.dumps(result))
    text = default.default()
    said = " ".join(text.split())
    assert "p = 2 [1.5, 2.5]" in said
    assert "1.2 up to 0.4" in said
    assert "| ten | 5,000 | 5.0 % | 0.049 | 0.040 | refused |" in text
    assert default.readings()[1] == [["a", "0.05", "27", "0.1", 0.0, 0.3]]
    ten, none = default.merges()[1]
    assert ten == ["ten", 100_000, 5000, "5.0 %", "0.049", "0.040", "refused", ""]
    assert (none[0], none[-1]) == ("none", "file holds no LoRA matrices")
