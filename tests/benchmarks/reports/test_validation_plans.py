"""The table of constants has the plans that try constants, and no others."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.quality.sets import pinned
from benchmarks.reports.studies import weights


def _save(folder: Path, plan: str, method: str) -> None:
    score = {"kl": 0.01, "exact": 50.0, "recovery": 0.9}
    result = {
        "set": "gemma3-5x8",
        "adapters": pinned()["gemma3-5x8"][1],
        "plan": plan,
        "split": "validation",
        "limits": {"rows": 32},
        "methods": {"x": {"method": method, "setting": "5%", "errors": {"a": 0.5}}},
        "tasks": [{"adapter": "a", "results": {"original": {"exact": 60.0}, "x": score}}],
    }
    (folder / f"gemma3-5x8.{plan}.validation.json").write_text(json.dumps(result))


def test_other_plans_on_validation_rows_are_no_trial_of_constants(tmp_path: Path) -> None:
    assert weights(tmp_path)[1] == []
    _save(tmp_path, "nearby", "d")
    _save(tmp_path, "weights", "chosen")
    _save(tmp_path, "sizes", "hydraopt")
    assert [row[:3] for row in weights(tmp_path)[1]] == [
        ["chosen", "5%", "0.0100"],
        ["d", "5%", "0.0100"],
    ]
