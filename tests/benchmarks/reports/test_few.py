"""The gain of few prompts is a share of that of many."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reports import few as module
from benchmarks.reports.few import every_task, few


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns the cells of a result with these KL, by task and number of prompts."""
    monkeypatch.setattr(module, "QUALITY", tmp_path)

    def cells(tasks: dict[str, dict[int, float]]) -> list[list[str]]:
        rows = [
            {
                "adapter": task,
                "prompts": count,
                "synthetic": 295 if count == 5 else 0,
                "refitted": count > 0,
                "values": [[1, 2 * kl], [0, 0.0]],
            }
            for task, kls in tasks.items()
            for count, kl in kls.items()
        ]
        result = {"set": "a", "size": "3%", "rows": rows}
        (tmp_path / "a.few-prompts.json").write_text(json.dumps(result))
        return [[x.strip() for x in line.split("|")[1:-1]] for line in few().splitlines()[2:]]

    return cells


def test_half_of_the_logarithm_is_half_of_the_gain(table) -> None:
    none, some, many = table({x: {0: 0.4, 5: 0.2, 300: 0.1} for x in "ab"})
    assert none[:5] == ["`a`, 2, 3%", "0", "0", "0 of 2", "50.0 %"]
    assert some[1:4] == ["5", "295", "2 of 2"]
    assert some[5:] == ["x 0.50 [0.50, 0.50]", "50 %"]
    assert many[5:] == ["x 0.25 [0.25, 0.25]", "100 %"]


def test_a_task_that_is_not_measured_to_its_end_is_left_out(table) -> None:
    rows = table({"a": {0: 0.4, 5: 0.2, 300: 0.1}, "b": {0: 0.4, 5: 0.4}})
    assert rows[0][0] == "`a`, 1, 3%"
    assert rows[1][6] == "50 %"


def test_no_gain_has_no_share(table) -> None:
    assert [row[6] for row in table({"a": {0: 0.4, 5: 0.4, 300: 0.4}})] == ["", "", ""]
    assert table({"a": {0: 0.4, 300: 0.0}})[1][6] == "100 %"


def test_all_sets_come_together_and_each_task_has_a_line(table, tmp_path: Path) -> None:
    alone = table({"a": {0: 0.4, 5: 0.2, 300: 0.1}})
    assert len(alone) == 3
    whole = json.loads((tmp_path / "a.few-prompts.json").read_text())
    (tmp_path / "b.few-prompts.json").write_text(json.dumps({**whole, "set": "b"}))
    lines = table({"a": {0: 0.4, 5: 0.4, 300: 0.1}})
    assert [x[0] for x in lines[6:]] == ["all, 2"] * 3
    assert lines[7][6] == "25 %"
    head, rows = every_task()
    assert len(rows) == 6
    assert dict(zip(head, rows[1], strict=True)) == {
        "set": "a", "task": "a", "size": "3%", "real_prompts": 5, "synthetic": 295,
        "refitted": True, "changed": "0.5000", "kl": "0.4",
    }  # fmt: skip
