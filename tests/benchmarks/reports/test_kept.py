"""Limits of harm against what test rows show."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.quality.harm_kept import kept
from benchmarks.reports import kept as report


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


def test_a_row_says_how_many_tasks_keep_the_limit_and_which_is_worst(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(report, "QUALITY", tmp_path)
    rows = [
        _row("1%", 0.01, 2400, {"mood-en": 0, "mood-de": 2, "dates-en": 3}),
        _row("2%", 0.02, 2000, {"mood-en": 1, "mood-de": 4, "dates-en": 20}),
    ]
    result = {"set": "set", "adapters": {}, "prompts": 24, "rows": rows}
    (tmp_path / "set.harm-kept.json").write_text(json.dumps(result))
    larger = {**result, "rows": [_row("2%", 0.02, 2500, {"mood-en": 200})]}
    (tmp_path / "set-other.harm-kept.json").write_text(json.dumps(larger))
    lines = [[x.strip() for x in x.strip("|").split("|")] for x in report.limits().splitlines()[2:]]
    assert sorted(line[1:] for line in lines) == [
        ["1%", "", "", "2 of 3", "0", "", ""],
        ["1%", "24", "24.0 %", "2 of 3", "0", "0.83 %", "1.5 % (dates-en)"],
        ["2%", "", "", "2 of 3", "1", "", ""],
        ["2%", "24", "20.0 %", "2 of 3", "1", "4.17 %", "10.0 % (dates-en)"],
    ]
    heads, every = report.tasks()
    found = [dict(zip(heads, row, strict=True)) for row in every]
    (mood,) = (x for x in found if (x["adapter"], x["limit"]) == ("mood-de", "1%"))
    assert (mood["changed"], mood["answers"], mood["low_pct"], mood["high_pct"]) == (
        2,
        200,
        "0.12",
        "3.56",
    )
    assert len(found) == 7
