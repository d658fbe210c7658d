"""The table of all methods has what the result files say, and pictures draw it."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from benchmarks import pages
from benchmarks.quality.sets import pinned
from benchmarks.reports import every_method
from benchmarks.reports.every_method import best, by_tasks, draw_set, series

ROWS = [
    {"method": "svd", "size_pct": 25.0, "relative_error": 0.3, "kl": 0.1, "mean_drop_pct": 1.0},
    {"method": "svd", "size_pct": 12.0, "relative_error": 0.5, "kl": 0.4, "mean_drop_pct": 9.0},
    {"method": "ties", "size_pct": 11.0, "relative_error": 1.2, "kl": 2.0, "mean_drop_pct": 80.0},
    {"method": "average", "size_pct": 10.0, "relative_error": 1.0},
    {"method": "hydraopt", "size_pct": 5.0, "relative_error": 0.4, "kl": 0.0, "mean_drop_pct": 0.0},
    {"method": "store all", "size_pct": 120.0, "relative_error": 0.0, "kl": 0.0},
]


def test_rows_stand_in_order_of_size_and_merged_adapters_together() -> None:
    assert series(ROWS, "relative_error") == {
        "hydraopt": [(5.0, 0.4)],
        "one adapter for all": [(10.0, 1.0), (11.0, 1.2)],
        "svd": [(12.0, 0.5), (25.0, 0.3)],
    }
    # Those without a score are left out.
    assert series(ROWS, "mean_drop_pct")["one adapter for all"] == [(11.0, 80.0)]


def test_a_line_runs_through_what_no_smaller_one_beats() -> None:
    assert best([(1, 5.0), (2, 6.0), (3, 4.0), (3, 3.0), (4, 3.0)]) == [
        (1, 5.0),
        (3, 4.0),
        (3, 3.0),
    ]


@pytest.mark.slow  # others below draw one each
def test_pictures_with_and_without_scores(tmp_path) -> None:
    draw_set("some", ROWS, tmp_path / "scored.png")
    plain = [{k: row[k] for k in ("method", "size_pct", "relative_error")} for row in ROWS]
    draw_set("some", plain, tmp_path / "plain.png")
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("scored.png", "plain.png"))


def test_rows_of_fewer_tasks_are_hollow_and_on_no_line(tmp_path: Path) -> None:
    few = {"method": "svd", "size_pct": 5.0, "relative_error": 0.6, "kl": 0.1, "mean_drop_pct": 0.5}
    rows = [{**row, "tasks": 40} if "mean_drop_pct" in row else row for row in ROWS]
    whole, part = by_tasks([*rows, {**few, "tasks": 10}])
    assert (whole, part) == (rows, [{**few, "tasks": 10}])
    assert by_tasks(rows) == (rows, [])
    figure, axis = plt.subplots()
    looks = dict.fromkeys(("svd", "hydraopt", "one adapter for all"), ("red", "o"))
    every_method._panel(axis, whole, part, "mean_drop_pct", looks)
    plt.close(figure)
    hollow = [x for x in axis.lines if x.get_fillstyle() == "none"]
    assert [(x.get_xdata().tolist(), x.get_linestyle()) for x in hollow] == [([5.0], "None")]
    assert all(5.0 not in x.get_xdata() for x in axis.lines if x.get_label() == "svd")
    draw_set("some", [*rows, {**few, "method": "less", "tasks": 10}], tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 10_000


def cells_of(folder: Path) -> list[dict[str, object]]:
    """Return the rows of the table, by names of columns."""
    heads, rows = every_method.every_method(folder)
    return [dict(zip(heads, row, strict=True)) for row in rows]


def result(label: str, method: str, drop: float | None, plan: str = "rivals"):
    note = {"method": method, "setting": "s", "bytes": 500, "size_pct": 5.0, "errors": {"a": 0.25}}
    score = {
        "scores": {"chrF": 80.0},
        "difference": {"chrF": {"difference": -(drop or 0), "deviation": 0.1}},
        "agreement": 99.0,
        "kl": 0.01,
        "recovery": 0.9,
    }
    scores = {"base": {"scores": {}}, "original": {"scores": {"chrF": 100.0}}}
    task = {"adapter": "a", "metric": "chrF", "results": scores | ({label: score} if drop else {})}
    return {
        "set": "gemma3-5x8",
        "adapters": pinned()["gemma3-5x8"][1],
        "plan": plan,
        "methods": {label: note},
        "failures": {"p": {"method": "vlora", "setting": "k=1", "failed": "it said no"}},
        "tasks": [task] if drop else [],
    }


def test_without_results_there_is_no_row_and_no_picture(tmp_path: Path) -> None:
    assert cells_of(tmp_path) == []
    assert "picture:" not in every_method.every_picture(tmp_path)


def test_rows_have_errors_and_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = result("one", "alpha", 0.25)
    (tmp_path / "gemma3-5x8.rivals.json").write_text(json.dumps(scored))
    (tmp_path / "gemma3-5x8.sizes.json").write_text(json.dumps(result("two", "beta", None)))
    mapped = result("three", "gamma", None, "map")
    (tmp_path / "gemma3-5x8.map.json").write_text(json.dumps(mapped))
    alpha, beta, failed = cells_of(tmp_path)
    assert (alpha["method"], alpha["relative_error"], alpha["tasks"]) == ("alpha", "0.25", "1")
    assert (beta["method"], beta["bytes"], beta["tasks"]) == ("beta", "500", "")
    assert (failed["method"], failed["bytes"], failed["failed"]) == ("vlora", "", "it said no")
    monkeypatch.setattr(pages, "PICTURES", tmp_path)
    every_method.draw(tmp_path)
    assert "(picture:methods-gemma3-5x8.png)" in every_method.every_picture(tmp_path)
    assert (tmp_path / "methods-gemma3-5x8.png").stat().st_size > 5000


def test_rows_state_what_was_tuned(tmp_path: Path) -> None:
    note = {"setting": "s", "bytes": 500, "size_pct": 5.0, "errors": {"a": 0.25}}
    methods = {
        "one": {**note, "method": "alpha", "tuned": {"lam": 0.2}},
        "two": {**note, "method": "beta"},
    }
    result = {
        "set": "gemma3-5x8",
        "adapters": pinned()["gemma3-5x8"][1],
        "plan": "rivals",
        "methods": methods,
        "tasks": [],
    }
    (tmp_path / "gemma3-5x8.rivals.json").write_text(json.dumps(result))
    tuned = {
        "set": "gemma3-5x8",
        "adapters": pinned()["gemma3-5x8"][1],
        "split": "validation",
        "inputs": "x",
        "tuned": {},
        "tried": [],
    }
    (tmp_path / "gemma3-5x8.tuned.json").write_text(json.dumps(tuned))
    assert [(x["method"], x["tuned"]) for x in cells_of(tmp_path)] == [
        ("alpha", "yes"),
        ("beta", ""),
    ]
