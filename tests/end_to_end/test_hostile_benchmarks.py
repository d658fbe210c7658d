"""The two hostile benchmarks, with few cases; benchmarks/results/hostile holds the full runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(("script", "count"), [("fuzz", 600), ("kill", 12)])
def test_few_cases(tmp_path: Path, script: str, count: int) -> None:
    output = tmp_path / "result.json"
    arguments = ["--count", str(count), "--seed", "20", "--json", str(output)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.hostile", script, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    assert result["failures"] == []
    assert result["count"] == count
    if script == "fuzz":
        assert sum(result["outcomes"].values()) == count
        # A fuzzer that damages nothing, or whose reader reads nothing, finds nothing.
        assert result["outcomes"]["refused"] > count / 2
        assert result["outcomes"]["same"] > 0
        assert result["largest_peak_increase_mb"] < 1000
    else:
        assert result["killed"] >= count
        assert result["damaged"] == 0
