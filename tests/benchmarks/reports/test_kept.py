"""Limits of harm against what test rows show."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.quality.harm_kept import kept
from benchmarks.reports import kept as report
from benchmarks.reports.kept import _text


def _row(limit: str, share: float, size: int, changed: dict[str, int]) -> dict[str, Any]:
    by_task = {name: kept(count, 200, share) for name, count in changed.items()}
    return {
        "limit": limit,
        "bytes": size,
        "size_pct": size / 100,
        "tasks": len(by_task),
        "tasks_kept": sum(x["kept"] for x in by_task.values()),
        "tasks_broken_for_sure": sum(x["broken_for_sure"] for x in by_task.values()),
        "changed_pct": sum(x["changed_pct"] for x in by_task.values()) / len(by_task),
        "by_task": by_task,
    }


@pytest.mark.parametrize(("whole", "words"), [(4, "merged, "), (9, "merged by themselves, ")])
def test_a_row_says_how_many_tasks_keep_the_limit_and_which_is_worst(
    monkeypatch, whole: int, words: str
) -> None:
    """whole: adapters of the set."""
    hashes = dict.fromkeys("abcdefghi"[:whole], "")
    monkeypatch.setattr(report, "pinned", lambda: {"set": ("recipe", hashes)})
    rows = [
        _row("1%", 0.01, 2400, {"mood-en": 0, "mood-de": 2, "dates-en": 3}),
        _row("2%", 0.02, 2000, {"mood-en": 1, "mood-de": 4, "dates-en": 20}),
    ]
    about = {"set": "set", "adapters": dict.fromkeys("abcd", ""), "prompts": 24}
    text = _text("set.harm-kept.json", {**about, "prompts_from": "validation", "rows": rows})
    flat = text.replace("\n", " ")
    assert f"4 adapters {words}3 scored on 600 test rows; 24 prompts" in flat
    assert "| 1% | 2,400 | 24.0 % | 2 of 3 | 0 | 0.83 | 1.5 (dates-en) |" in text
    assert "| 2% | 2,000 | 20.0 % | 2 of 3 | 1 | 4.17 | 10.0 (dates-en) |" in text
    assert "| mood-de | 2 of 200 [0.1, 3.6] | 4 of 200 [0.5, 5.0] |" in text
