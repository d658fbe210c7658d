"""A run that adds to what a result tells already, and one that may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import save_json
from benchmarks.quality.probes import _counted, _joined, _refuse_others
from hydraopt.evaluate.compare import Compared


def _result(task: str, probe: str, seconds: float, **more: Any) -> dict[str, Any]:
    head = {"items": {probe: 3}, "sha256": {probe: "0"}, "base": {probe: probe}}
    return {
        "seconds": seconds,
        "probes": head,
        "tasks": [{"adapter": task, "probes": {probe: task}, **more}],
    }


def test_other_tasks_and_other_probes_stay() -> None:
    names = ["a", "b"]
    one = _joined({}, _result("b", "x", 1.5), names)
    two = _joined(one, _result("a", "x", 2.0), names)
    three = _joined(two, _result("b", "y", 4.0), names)
    assert [x["adapter"] for x in three["tasks"]] == names
    assert three["tasks"][1] == {"adapter": "b", "probes": {"x": "b", "y": "b"}}
    assert three["probes"]["base"] == {"x": "x", "y": "y"}
    assert three["probes"]["items"] == {"x": 3, "y": 3}
    assert three["seconds"] == 7.5


def test_a_result_of_something_else_is_refused() -> None:
    made = {"limits": {"rows": 32}, "products": "float32"}
    before, nothing = {"adapters": {}, **made}, Compared({}, {})
    _refuse_others("x.json", {}, nothing, made)
    _refuse_others("x.json", before, nothing, made)
    with pytest.raises(SystemExit, match=r"x\.json"):
        _refuse_others("x.json", before, nothing, {**made, "products": "bfloat16"})
    with pytest.raises(SystemExit, match="limits"):
        _refuse_others("x.json", before, nothing, {**made, "limits": {"rows": 64}})


def test_a_result_keeps_counts_and_what_does_not_follow_from_them() -> None:
    margin = {"value": 0.2, "low": 0.1, "high": 0.3}
    share = {"count": 1, "of": 4, "pct": 25.0, "p": 0.6}
    told = {"flips": {**share, "low": 4.6, "high": 70.0}, "margin": margin, "who": ["a"]}
    assert _counted({"x": told}) == {"x": {"flips": share, "margin": margin, "who": ["a"]}}


def test_a_result_of_many_numbers_has_a_line_for_each_row(tmp_path: Path) -> None:
    rows = [{"a": 1, "b": {"ü": 2}}, {"a": 3}]
    result = {"tasks": rows, "seconds": 1.5, "command": "python -m x y"}
    save_json(tmp_path / "x.json", result, "tasks")
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == result
    assert [json.loads(line.rstrip(",")) for line in text.splitlines() if "a" in line[:3]] == rows
    assert '"command": "python -m x y"' in text
    save_json(tmp_path / "x.json", {"tasks": []}, "tasks")
    assert json.loads((tmp_path / "x.json").read_text()) == {"tasks": []}
