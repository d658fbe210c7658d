"""Parts of one merge that were scored apart are one table, others are not."""

from __future__ import annotations

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
