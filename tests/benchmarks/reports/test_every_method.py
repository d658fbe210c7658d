"""The leaderboard shows what the result files say, and its pictures draw it."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from benchmarks import pages
from benchmarks.quality.sets import pinned
from benchmarks.reports import every_method
from benchmarks.reports.every_method import best, by_tasks, draw, series

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
    draw("some", ROWS, tmp_path / "scored.png")
    plain = [{k: row[k] for k in ("method", "size_pct", "relative_error")} for row in ROWS]
    draw("some", plain, tmp_path / "plain.png")
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
    draw("some", [*rows, {**few, "method": "less", "tasks": 10}], tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 10_000


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the page is written; its pictures are beside it."""
    monkeypatch.setattr(pages, "BOARD", tmp_path / "BOARD.md")
    monkeypatch.setattr(pages, "BOARD_PICTURES", tmp_path)
    return pages.BOARD


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


def test_the_leaderboard_says_that_there_is_nothing(tmp_path: Path, out: Path) -> None:
    every_method.write(folder=tmp_path / "none")
    assert "No result files yet" in out.read_text()
    assert list(tmp_path.iterdir()) == [out]


def test_the_leaderboard_shows_scores_errors_and_failures(tmp_path: Path, out: Path) -> None:
    scored = result("one", "alpha", 0.25)
    (tmp_path / "gemma3-5x8.sizes.json").write_text(json.dumps(scored))
    (tmp_path / "gemma3-5x8.rivals.json").write_text(json.dumps(result("two", "beta", None)))
    mapped = result("three", "gamma", None, "map")
    (tmp_path / "gemma3-5x8.map.json").write_text(json.dumps(mapped))
    every_method.write(folder=tmp_path)
    page = out.read_text()
    assert "| alpha | s | - | 500 | 5.00 % | 0.250 | +0.25 |" in page
    assert "| beta | s | - | 500 | 5.00 % | 0.250 | - | - | - | - |" in page
    assert "| gemma3-5x8 | vlora | k=1 | it said no |" in page
    assert "gamma" not in page
    # One size of each method is no line to see; two are.
    assert not (tmp_path / "gemma3-5x8.png").exists()
    assert "gemma3-5x8.png" not in page
    other = result("four", "alpha", 0.2)
    other["methods"]["four"] |= {"setting": "t", "bytes": 900}
    (tmp_path / "gemma3-5x8.ways.json").write_text(json.dumps(other))
    every_method.write(folder=tmp_path)
    assert "(gemma3-5x8.png)" in out.read_text()
    assert (tmp_path / "gemma3-5x8.png").stat().st_size > 5000


def test_the_leaderboard_tells_what_was_tuned(tmp_path: Path) -> None:
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
    page = every_method.leaderboard(tmp_path)
    assert "| method | setting | tuned on validation | bytes |" in page
    assert "| alpha | s | yes | 500 |" in page
    assert "| beta | s | - | 500 |" in page
