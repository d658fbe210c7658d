"""The hostile benchmark, with few cases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.hostile import fuzz


@pytest.mark.slow
def test_few_damaged_files(tmp_path: Path) -> None:
    counts, out = ["--adapters", "300", "--bundles", "150", "--seed", "20"], tmp_path / "x.json"
    assert fuzz.main([*counts, "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["failures"] == []
    assert set(result["found"].values()) == {0}
    assert result["done"] == 450
    # A fuzzer that damages nothing, or whose files are all refused, finds nothing.
    for kind, count in (("adapter", 300), ("bundle", 150)):
        outcomes = result["outcomes"][kind]
        assert sum(outcomes.values()) == count
        assert outcomes["refused"] > count / 2
        assert outcomes["accepted"] > count / 30
