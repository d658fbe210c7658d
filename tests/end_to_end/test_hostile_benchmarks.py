"""The hostile benchmarks, with few cases; benchmarks/results/hostile holds the full runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, output: Path, *arguments: str, codes: tuple[int, ...] = (0,)) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.hostile", script, *arguments, "--json", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in codes, done.stderr
    return json.loads(output.read_text())


@pytest.mark.slow
def test_few_damaged_files(tmp_path: Path) -> None:
    counts = ("--adapters", "300", "--bundles", "150", "--seed", "20")
    result = run("fuzz", tmp_path / "result.json", *counts)
    assert result["failures"] == []
    assert set(result["found"].values()) == {0}
    assert result["done"] == 450
    # A fuzzer that damages nothing, or whose files are all refused, finds nothing.
    for kind, count in (("adapter", 300), ("bundle", 150)):
        outcomes = result["outcomes"][kind]
        assert sum(outcomes.values()) == count
        assert outcomes["refused"] > count / 2
        assert outcomes["accepted"] > count / 30


@pytest.mark.slow
def test_few_kills(tmp_path: Path) -> None:
    result = run("kill", tmp_path / "result.json", "--count", "12", "--seed", "20")
    assert result["failures"] == []
    assert result["count"] == 12
    assert result["killed"] >= 12
    assert result["damaged"] == 0


@pytest.mark.slow
def test_a_short_attack_on_the_server(tmp_path: Path) -> None:
    few = ("--seconds", "10", "--clients", "2", "--connections", "8", "--seed", "20")
    # Code 1 may be a limit of time that a busy machine exceeds.
    result = run("server", tmp_path / "result.json", *few, codes=(0, 1))
    answers, reloads = result["rows"][:2]
    assert answers["right"] + answers["tie"] == answers["requests"] > 0
    assert reloads["odd"] == 0
    for row in result["rows"]:
        assert row.get("closed") == row.get("connections") or row["what"] == "crowd"
