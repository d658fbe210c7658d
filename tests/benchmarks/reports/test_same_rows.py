"""Costs of sizes: drops of the task's own metric, and their bounds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.reports import same_rows
from benchmarks.reports.equal_kl import pairs
from benchmarks.reports.same_rows import by_base, every_size, results


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
    text = json.dumps({"methods": methods, "rows": found})
    (folder / f"{name}.equal-kl.json").write_text(text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(same_rows, "QUALITY", tmp_path)
    return tmp_path


def test_drops_are_in_percent_of_the_original(folder: Path) -> None:
    stored(folder, "gemma3-5x8", wrong=8)
    (result,) = results()
    assert result.drops("hydraopt_2pct") == pytest.approx([20.0, 20.0])
    assert result.drops("hydraopt_5pct") == [0.0, 0.0]
    # Rows that are drawn more than once count as often.
    assert result.drops("hydraopt_2pct", np.zeros(40, int)) == [100.0, 100.0]
    alone = result.scored("hydraopt,_prompts_2pct")
    assert [*alone.values] == ["x-en"]


def test_rows_of_the_table(folder: Path) -> None:
    stored(folder, "gemma3-5x8", wrong=8)
    stored(folder, "examples", wrong=2)
    lines = [line.split(" | ") for line in by_base().splitlines()[2:]]
    assert ["135 M" in x[0] for x in lines] == [True] * 3 + [False] * 3  # small bases first
    head, table = every_size()
    rows = [dict(zip(head, row, strict=True)) for row in table]
    assert {row["method"] for row in rows} == {"hydraopt", "hydraopt, prompts"}  # rival: no rows
    two = next(x for x in rows if x["set"] == "gemma3-5x8" and x["setting"] == "2%")
    assert float(two["drop_low"]) < float(two["drop_pct"]) == 20 < float(two["drop_at_most"])
    assert float(two["drop_at_most"]) < float(two["drop_high"])
    assert two["changed_pct"] == "20.000"
    assert [x["tasks"] for x in rows if x["method"] == "hydraopt, prompts"] == [1, 1]


def test_each_rival_meets_what_gets_as_much() -> None:
    names = "hydraopt", "svd", "hydraopt, prompts", "svd, prompts"
    methods = {name: {"method": name} for name in names}
    assert pairs(methods) == [
        ("hydraopt", "svd"),
        ("hydraopt, prompts", "hydraopt"),
        ("hydraopt, prompts", "svd, prompts"),
    ]
    assert pairs({name: methods[name] for name in names[:2]}) == [("hydraopt", "svd")]
