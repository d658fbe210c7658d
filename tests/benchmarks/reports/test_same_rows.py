"""Costs of sizes: drops of the task's own metric, and their bounds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import pages
from benchmarks.reports import same_rows
from benchmarks.reports.equal_kl import pairs
from benchmarks.reports.same_rows import by_base, draw, every_size, every_task, results


def stored(folder: Path, name: str, wrong: int, rows: int = 40) -> None:
    """A set with two tasks of exact match; the bundle has so many rows wrong in each."""
    methods = {
        "hydraopt_5pct": {"method": "hydraopt", "setting": "5%", "share": 0.05},
        "hydraopt_2pct": {"method": "hydraopt", "setting": "2%", "share": 0.02},
        "hydraopt,_prompts_2pct": {"method": "hydraopt, prompts", "setting": "2%", "share": 0.02},
        "rival": {"method": "rival", "setting": "x", "share": 0.05},
    }
    methods = {x: {**about, "bytes": 10, "error": 0.1} for x, about in methods.items()}
    right = [[0, 0.0, 1.0]] * rows
    worse = [[int(i < wrong), 0.1, float(i >= wrong)] for i in range(rows)]
    found = []
    for adapter in ("x-en", "x-de"):
        values = {"original": right, "hydraopt_5pct": right, "hydraopt_2pct": worse}
        if adapter == "x-en":
            values["hydraopt,_prompts_2pct"] = right
        found += [
            {"adapter": adapter, "metric": "exact match", "method": label, "values": x}
            for label, x in values.items()
        ]
    base = "smollm2-135m-instruct" if name == "examples" else "gemma-3-270m"
    text = json.dumps({"methods": methods, "rows": found, "base": base})
    (folder / f"{name}.equal-kl.json").write_text(text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(same_rows, "QUALITY", tmp_path)
    return tmp_path


def test_drops_are_in_percent_of_the_original(folder: Path) -> None:
    stored(folder, "gemma3-5x8", wrong=8)
    (result,) = results()
    assert result.drops("hydraopt_2pct") == pytest.approx({"x-en": 20.0, "x-de": 20.0})
    assert {*result.drops("hydraopt_5pct").values()} == {0.0}
    # Rows of one number are drawn together, and count as often as they are drawn.
    scores = same_rows.sampled(result, "hydraopt_2pct")
    assert np.array_equal(scores["x-en"], scores["x-de"])
    assert scores["x-en"].mean() == pytest.approx(80, abs=2)
    assert scores["x-en"].std() == pytest.approx(100 * (0.2 * 0.8 / 40) ** 0.5, rel=0.2)
    assert {*same_rows.sampled(result, "hydraopt_5pct")["x-en"]} == {100.0}
    alone = result.scored("hydraopt,_prompts_2pct")
    assert [*alone.values] == ["x-en"]
    nothing = {**result.numbers["x-de"], "original": np.zeros((40, 1))}
    less = replace(result, numbers={**result.numbers, "x-de": nothing})
    assert [*less.drops("hydraopt_2pct")] == ["x-en"]


def test_rows_of_the_table(folder: Path) -> None:
    stored(folder, "gemma3-5x8", wrong=8)
    stored(folder, "examples", wrong=2)
    lines = [line.split(" | ") for line in by_base().splitlines()[2:]]
    assert ["135 M" in x[0] for x in lines] == [True] * 2 + [False] * 2  # small bases first
    head, table = every_size()
    rows = [dict(zip(head, row, strict=True)) for row in table]
    assert {row["method"] for row in rows} == {"hydraopt", "hydraopt, prompts"}  # rival: no rows
    two = next(x for x in rows if x["set"] == "gemma3-5x8" and x["setting"] == "2%")
    assert float(two["drop_low"]) < float(two["drop_pct"]) == 20 < float(two["drop_at_most"])
    assert float(two["drop_at_most"]) < float(two["drop_high"])
    assert two["changed_pct"] == "20.000"
    assert [x["tasks"] for x in rows if x["method"] == "hydraopt, prompts"] == [1, 1]
    # No change in 80 answers may be one in 30.
    none = next(x for x in rows if x["set"] == "gemma3-5x8" and x["setting"] == "5%")
    assert none["drop_pct"] == none["changed_pct"] == "0.000"
    assert 3 < float(none["drop_at_most"]) < float(none["drop_high"]) < 5


def test_a_row_for_each_task_of_ours(folder: Path) -> None:
    stored(folder, "gemma3-5x8", wrong=8)
    head, table = every_task()
    rows = [dict(zip(head, row, strict=True)) for row in table]
    told = [(x["task"], x["method"], x["setting"]) for x in rows]
    both = [(x, "hydraopt", size) for size in ("5%", "2%") for x in ("x-en", "x-de")]
    assert told == [*both, ("x-en", "hydraopt, prompts", "2%")]
    worse = rows[told.index(("x-de", "hydraopt", "2%"))]
    assert (worse["original"], worse["score"], worse["drop_pct"]) == ("100.00", "80.00", "20.00")
    assert (worse["changed_pct"], worse["kl"], worse["rows"]) == ("20.00", "0.1", 40)


def test_each_rival_meets_what_gets_as_much() -> None:
    names = "hydraopt", "coded svd", "hydraopt, prompts", "coded svd, prompts", "group"
    methods = {name: {"method": name} for name in names}
    assert pairs(methods) == [
        ("hydraopt", "coded svd"),
        ("hydraopt, prompts", "coded svd, prompts"),
    ]
    assert pairs({name: methods[name] for name in names[:2]}) == [("hydraopt", "coded svd")]


@pytest.mark.slow
def test_a_picture_of_a_run_under_way(folder: Path, monkeypatch) -> None:
    stored(folder, "gemma3-5x8", wrong=8)
    file = folder / "gemma3-5x8.equal-kl.json"
    result = json.loads(file.read_text())
    del result["methods"]["hydraopt,_prompts_2pct"]
    result["methods"]["hydraopt_1pct"] = {**result["methods"]["hydraopt_2pct"], "setting": "1%"}
    file.write_text(json.dumps(result))
    monkeypatch.setattr(pages, "PICTURES", folder)
    draw()
    assert (folder / "bases.png").is_file()


def test_gains_alone_do_not_bound_a_loss(folder: Path) -> None:
    stored(folder, "gemma3-5x8", wrong=8)
    (result,) = results()
    # The original is wrong where the bundle is right: answers change, and no row loses.
    swapped = {
        name: {**by, "original": by["hydraopt_2pct"], "hydraopt_2pct": by["original"]}
        for name, by in result.numbers.items()
    }
    better = replace(result, numbers=swapped)
    assert same_rows.Cost.of(better, "hydraopt_2pct").drop < 0
    bounds = same_rows.Bounds.of(better, "hydraopt_2pct")
    # 80 rows without a loss; one of them would cost 1.25 percent of a score of 80.
    assert bounds.most == pytest.approx(125 * (1 - 0.05 ** (1 / 80)))
    assert bounds.drop[1] == pytest.approx(125 * (1 - 0.025 ** (1 / 80)))


def test_a_change_that_was_seen_does_not_lower_its_bound(folder: Path) -> None:
    stored(folder, "gemma3-5x8", wrong=8)
    (result,) = results()
    none = same_rows.Bounds.of(result, "hydraopt_5pct")
    few = {name: dict(by) for name, by in result.values.items()}
    few["x-en"]["hydraopt_5pct"] = few["x-en"]["hydraopt_5pct"].copy()
    few["x-en"]["hydraopt_5pct"][0, 0] = 1
    one = same_rows.Bounds.of(replace(result, values=few), "hydraopt_5pct")
    assert one.changed[1] >= none.changed[1]


def test_sizes_of_another_study_are_in_no_comparison(folder: Path) -> None:
    stored(folder, "gemma3-5x8", wrong=8)
    file = folder / "gemma3-5x8.equal-kl.json"
    result = json.loads(file.read_text())
    result["methods"]["near"] = {**result["methods"]["hydraopt_5pct"], "setting": "5.04%"}
    file.write_text(json.dumps(result))
    (read,) = results()
    assert "near" in read.every_size_of("hydraopt").values()
    assert "near" not in read.of("hydraopt").values()
