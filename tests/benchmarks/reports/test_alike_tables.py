"""Parts of one merge that were scored apart are one table, others are not."""

from __future__ import annotations

import json

import pytest

from benchmarks.reports import alike
from benchmarks.reports.alike import _joined


def test_results_of_the_same_bundles_are_one() -> None:
    bundles = [{"a": {"sha256": x}} for x in "xy"]
    results = {
        "set-slots.alike.json": {"bundles": bundles[0], "tasks": ["slots"], "prompts": 48},
        "set.alike.json": {"bundles": bundles[1], "tasks": ["mood"], "prompts": 24},
        "set-mood.alike.json": {"bundles": bundles[0], "tasks": ["mood"], "prompts": 48},
    }
    joined = [(files, made["tasks"], made["prompts"]) for files, made in _joined(results)]
    assert joined == [
        (["set-slots.alike.json", "set-mood.alike.json"], ["slots", "mood"], 48),
        (["set.alike.json"], ["mood"], 24),
    ]


@pytest.mark.parametrize("kind", ["curves", "ways"])
def test_sizes_that_were_shared_out_stand_beside_others(monkeypatch, tmp_path, kind) -> None:
    monkeypatch.setattr(alike, "QUALITY", tmp_path)
    monkeypatch.setattr(alike, "_tables", lambda file, result, keys: f"{file} {keys}")
    judge = {"split": "validation", "count": 24}
    result = {
        "set": "set",
        "adapters": {"a-de": "", "b-de": "", "c-de": ""},
        "methods": {"plain": {"options": {}}, "judged": {"options": {"judge": judge}}},
        "tasks": [{"rows": 300}, {"rows": 950}],
    }
    (tmp_path / f"set.{kind}.json").write_text(json.dumps(result))
    text = alike.SECTIONS["shared out"]()
    assert text.startswith("set: 3 merged, 2 scored, 1,250 test rows, 24 prompts a task at most")
    assert f"of validation rows (`set.{kind}.json`)" in text
    assert text.endswith(f"set.{kind}.json ('task', 'adapter')")
