"""How far prompts should move a size: which bundles are made, and on which rows they are held."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.quality import evidence, part_way
from benchmarks.quality.harness import drifting
from hydraopt import merge
from hydraopt.adapters import Adapter
from hydraopt.evaluate.compare import Request
from hydraopt.harm import sharing
from hydraopt.harm.drift import Reference, Summary

Run = Callable[..., dict[str, Any]]
ERRORS = {math.inf: 0.3, 3: 0.2, 0: 0.5, 24: 0.4}
"""Of the bundles, by how many answers are trusted half."""


@pytest.fixture
def halves() -> list[float]:
    """How many answers were trusted half in each merge."""
    return []


@pytest.fixture
def run(trained, splits, adapters, halves, tmp_path: Path, monkeypatch) -> Run:
    """The study of one adapter of the small model, whose size is an error."""
    model, tokenizer = trained
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")

    def noted(adapters, path, **options):
        halves.append(sharing.TRUSTED_HALF)
        return merge(adapters, path, error=ERRORS[sharing.TRUSTED_HALF], workers=1)

    def request(_set, tasks, rows, products):
        return Request(str(tmp_path / "base"), tasks, rows=rows, products=products)

    monkeypatch.setattr(evidence, "merge", noted)
    monkeypatch.setattr(evidence, "judge_of", lambda *_, **__: SimpleNamespace(cut=dict))
    monkeypatch.setattr(part_way, "original_adapters", lambda _: list(adapters))
    for module in (evidence, part_way):
        monkeypatch.setattr(module, "request_for", request)
        monkeypatch.setattr(module, "ROOT", tmp_path)

    def result(*more: str) -> dict[str, Any]:
        out = ["--out", str(tmp_path), "--products", "float32"]
        part_way.main(["gemma3-separate8", "--tasks", str(splits), *out, *more])
        return json.loads((tmp_path / "gemma3-separate8.part-way.json").read_text())

    return result


def test_it_goes_none_half_and_all_of_the_way(run: Run, halves, capsys) -> None:
    given = ("--prompts", "3", "--fresh", "9")
    result = run(*given)
    assert halves == [math.inf, 3, 0, sharing.TRUSTED_HALF]
    rows = result["results"]
    assert list(rows) == ["none", "half", "all", "without"]
    assert {x["tasks"]["spell-en"]["answers"] for x in rows.values()} == {2}, "two of five follow"
    assert rows["half"]["lost_more_pct"] == 0
    more = rows["all"]["lost_pct"] - rows["half"]["lost_pct"]
    assert rows["all"]["lost_more_pct"] == pytest.approx(more, abs=1e-3)
    assert min(rows.values(), key=lambda x: x["kl_answer"]) is rows["half"], "the least error"
    assert len({x["kl_answer"] for x in rows.values()}) == 4
    assert "spell-en: measured" in capsys.readouterr().out
    assert run(*given)["results"] == rows
    assert len(halves) == 4
    assert "measured" not in capsys.readouterr().out


def test_another_number_of_rows_is_measured_anew(run: Run, capsys) -> None:
    run("--prompts", "3", "--fresh", "9")
    rows = run("--prompts", "3", "--fresh", "1")["results"]
    assert {x["tasks"]["spell-en"]["answers"] for x in rows.values()} == {1}
    assert capsys.readouterr().out.count("measured") == 2


def test_tasks_without_fresh_rows_are_named(run: Run, monkeypatch, capsys) -> None:
    known = part_way.harms
    monkeypatch.setattr(part_way, "harms", lambda *x: {**known(*x), "spell-ja": {}})
    result = run("--prompts", "3")
    assert result["without_fresh_rows"] == ["spell-ja"]
    assert all(list(x["tasks"]) == ["spell-en"] for x in result["results"].values())
    capsys.readouterr()


def test_what_is_said_of_three_tasks() -> None:
    def told(changed: int, lost: float, kl: float) -> Summary:
        return Summary(changed, 10, lost, 0.0, kl, 0.0, lost)

    mine = {"a": told(1, 0.1, 1e-9), "b": told(3, 0.3, 0.01), "c": told(2, 0.2, 1e-6)}
    like = {"a": told(0, 0.1, 1e-9), "b": told(0, 0.2, 0.01), "c": told(0, 0.05, 1e-6)}
    row = part_way.row_of({"bytes": 9, "size_pct": 5.0, "code": "x"}, mine, like)
    assert (row["changed_pct"], row["likely_pct"], row["lost_pct"]) == (20.0, 20.0, 20.0)
    assert row["lost_more_pct"] == pytest.approx(25 / 3, abs=1e-4)
    apart = math.sqrt(sum((x - 25 / 3) ** 2 for x in (0, 10, 15)) / 2 / 3)
    assert row["lost_more_error_pct"] == pytest.approx(apart, abs=1e-4)
    assert row["kl_answer"] == pytest.approx(0.010001 / 3, abs=1e-6)
    assert row["kl_answer_geometric"] == pytest.approx(1e-17 ** (1 / 3), abs=1e-6)


def test_an_adapter_without_such_rows_has_no_drift(
    trained, splits, adapters: list[Adapter]
) -> None:
    rows = drifting.FreshRows(splits, "validation", 9, first=5)
    bundle = {"spell-en": None}
    assert drifting.drifts(trained, adapters[0], {"x": bundle}, rows) == {}


@pytest.mark.parametrize("what", ["original", "bundle"])
def test_what_is_no_number_is_not_kept(
    trained, splits, adapters: list[Adapter], monkeypatch, what: str
) -> None:
    rows, (adapter,) = drifting.FreshRows(splits, "validation", 2), adapters
    if what == "original":
        monkeypatch.setattr(Reference, "is_finite", False)
    original = {path: x.factors() for path, x in adapter.modules.items()}
    broken = {path: SimpleNamespace(B=b * math.inf, A=a) for path, (b, a) in original.items()}
    bundle = {"spell-en": SimpleNamespace(factors=lambda: broken)}
    with pytest.raises(SystemExit, match=f"no numbers of spell-en: {what}"):
        drifting.drifts(trained, adapter, {"x": bundle}, rows)


def test_rows_that_are_all_seen_are_refused(run: Run) -> None:
    with pytest.raises(SystemExit, match="no validation rows after the first 24"):
        run("--prompts", "24")
