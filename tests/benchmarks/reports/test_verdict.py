"""Which rivals are ahead of hydraopt at no more bytes, and by how much."""

from __future__ import annotations

import json

import pytest

from benchmarks.quality.sets import pinned
from benchmarks.reports.verdict import duels, every_duel, verdicts

ROWS = {
    # label: method, bytes, percent of fp16, drops of two tasks in points of 50, deviation in points
    "ours 2%": ("hydraopt", 20, 2.0, (5.0, 15.0), 1.0),
    "ours 10%": ("hydraopt", 100, 10.0, (0.0, 1.0), 0.5),
    "tiny": ("tiny", 19, 1.9, (0.0, 0.0), 0.1),
    "far behind": ("far behind", 90, 9.0, (20.0, 30.0), 1.0),
    "ahead": ("ahead", 110, 11.0, (0.5, 0.0), 0.5),
    "ahead for sure": ("ahead for sure", 21, 2.1, (0.0, 2.0), 1.0),
    "half": ("half", 700, 70.0, (-5.0, -5.0), 0.1),
}


def result(rows=ROWS):
    tasks = []
    for i, name in enumerate("ab"):
        scores = {"base": {}, "original": {"scores": {"f1": 50.0}}}
        for label, (_, _, _, lost, deviation) in rows.items():
            change = {"difference": -lost[i], "deviation": deviation}
            scores[label] = {
                "scores": {"f1": 50.0 - lost[i]},
                "difference": {"f1": change},
                "kl": 0.01 * lost[i],
            }
        tasks.append({"adapter": name, "metric": "f1", "results": scores})
    return {
        "set": "gemma3-5x8",
        "adapters": pinned()["gemma3-5x8"][1],
        "plan": "rivals",
        "tasks": tasks,
        "methods": {
            label: {"method": method, "setting": "", "bytes": size, "size_pct": percent}
            for label, (method, size, percent, _, _) in rows.items()
        },
    }


def test_each_rival_meets_the_largest_bundle_that_is_no_larger() -> None:
    found = {x.rival: x for x in duels(result())}
    # Smaller than all bundles, and larger than 60 % of fp16: not compared.
    assert sorted(found) == ["ahead", "ahead for sure", "far behind"]
    far = found["far behind"]
    # Drops of 50 points in percent: 40 and 60 against 10 and 30.
    assert far.mean == pytest.approx(50 - 20)
    assert far.worst == pytest.approx(60 - 30)
    # Two tasks of 2 % deviation each on either side.
    assert far.mean_spread == pytest.approx((4 * 2.0**2) ** 0.5 / 2)
    assert far.worst_spread == pytest.approx(8**0.5)
    assert found["ahead"].mean == pytest.approx(0.5 - 1.0)


def test_the_table_counts_and_the_csv_file_has_all(tmp_path) -> None:
    assert verdicts(tmp_path) == "Not measured yet.\n"
    (tmp_path / "gemma3-5x8.rivals.json").write_text(json.dumps(result()))
    lines = [[x.strip() for x in line.strip("|").split("|")] for line in
             verdicts(tmp_path).splitlines() if line.startswith("|")]  # fmt: skip
    assert lines[2][:-1] == ["`gemma3-5x8`", "mean", "3", "1", "0", "1", "1"]
    assert lines[3][:-1] == ["`gemma3-5x8`", "worst task", "3", "1", "0", "1", "1"]
    # KL 0.25 against 0.1; 0.0025 against 0.005; 0.01 against 0.1.
    assert lines[4] == ["`gemma3-5x8`", "KL", "3", "-", "1", "2", "-", "-"]
    assert [row[1] for row in every_duel(tmp_path)[1]] == ["far behind", "ahead", "ahead for sure"]


def test_the_difference_that_counts_as_sure_is_named(tmp_path) -> None:
    (tmp_path / "gemma3-5x8.rivals.json").write_text(json.dumps(result()))
    _, _, mean, worst, _ = verdicts(tmp_path).splitlines()
    halves = sorted(1.96 * duel.mean_spread for duel in duels(result()))
    assert mean.endswith(f"| {halves[1]:.1f} |")
    assert "| worst task |" in worst
