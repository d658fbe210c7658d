"""Limits of harm against what test rows show."""

from __future__ import annotations

import json

from benchmarks.quality.harm_kept import kept
from benchmarks.reports import kept as report


def test_a_row_says_how_many_tasks_keep_the_limit_and_which_is_worst(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(report, "QUALITY", tmp_path)
    changed = {
        "2%": {"mood-en": 1, "mood-de": 4, "dates-en": 20},
        "1%": {"mood-en": 0, "mood-de": 2, "dates-en": 3},
    }
    shares = {"1%": 0.24, "2%": 0.2}
    rows = [
        {"adapter": name, "limit": limit, "bytes": 2400, "share": shares[limit]}
        | kept(count, 200, float(limit[0]) / 100)
        for limit, counts in changed.items()
        for name, count in counts.items()
    ]
    result = {"set": "set", "prompts": 24, "rows": rows}
    (tmp_path / "set.harm-kept.json").write_text(json.dumps(result))
    lines = [[x.strip() for x in x.strip("|").split("|")] for x in report.limits().splitlines()[2:]]
    assert lines == [
        ["`set`", "1%", "24", "24.0 %", "2 of 3", "0", "0.83 %", "1.5 % (dates-en)"],
        ["`set`", "2%", "24", "20.0 %", "2 of 3", "1", "4.17 %", "10.0 % (dates-en)"],
    ]
    heads, every = report.tasks()
    found = [dict(zip(heads, row, strict=True)) for row in every]
    (mood,) = (x for x in found if (x["adapter"], x["limit"]) == ("mood-de", "1%"))
    asked = "changed", "answers", "low_pct", "high_pct"
    assert tuple(mood[x] for x in asked) == (2, 200, "0.12", "3.56")
    assert len(found) == 6
