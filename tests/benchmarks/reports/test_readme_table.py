"""The short table says what the result files say, and goes where its marks are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import pages
from benchmarks.quality.sets import SETS
from benchmarks.reports import readme
from benchmarks.reports.rivals import factors, scored_rivals
from benchmarks.reports.scores import headline
from tests.benchmarks.reports.test_verdict import ROWS, result

TABLE = "evidence in short"


def cells(text: str) -> dict[str, list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    rows = [[x.strip() for x in line.strip("|").split("|")] for line in lines]
    return {row[0].split("`")[1]: row[1:] for row in rows}


def test_there_is_a_row_for_each_set_and_it_is_the_headlines() -> None:
    found = cells(readme.in_short())
    assert tuple(found) == SETS
    sets = headline()["sets"]
    for name, (size, mean, worst, *_) in found.items():
        (row,) = (
            x for x in sets[name]["rows"] if (x["method"], x["setting"]) == ("hydraopt", "10%")
        )
        assert size == "10 %"
        assert mean.startswith(f"{row['mean_drop_pct']:+.1f} % [")
        assert row["worst_task"] in worst


def test_all_numbers_of_a_row_are_of_one_sample() -> None:
    sets = headline()["sets"]
    for name, (*_, answers, kl) in cells(readme.in_short()).items():
        (row,) = (
            x for x in sets[name]["rows"] if (x["method"], x["setting"]) == ("hydraopt", "10%")
        )
        assert kl == f"{row['kl']:.2g}"
        share = row["changed_pct"]
        assert answers == ("-" if share is None else f"{share:.1f} %")


def test_the_factors_are_of_the_rivals_that_take_the_fewest_bytes() -> None:
    best = []
    for name, scored in scored_rivals():
        times = [x.times for x in factors(name, scored) if x.size_pct <= 50]
        assert len(times) > 3
        best.append(min(times))
    assert f"{min(best):.1f} to {max(best):.1f} times" in " ".join(readme.in_short().split())


def stored(folder: Path, rows=ROWS, **change) -> None:
    """The set's own run, at its default, and its rivals'."""
    own = result({"ours 10%": ROWS["ours 10%"]}) | {"plan": "sizes"}
    beside = {**result(rows), **change}
    for x in (own, beside):
        for label, note in x["methods"].items():
            note |= {"setting": label.partition(" ")[2], "errors": {"a": 0.1, "b": 0.1}}
            for task in x["tasks"]:
                task["results"][label] |= {"agreement": 99.0, "recovery": 1.0}
    (folder / "gemma3-5x8.sizes.json").write_text(json.dumps(own))
    (folder / "gemma3-5x8.rivals.json").write_text(json.dumps(beside))


def test_without_results_it_says_so(tmp_path: Path) -> None:
    assert readme.in_short(tmp_path) == "Not measured yet.\n"
    stored(tmp_path)
    assert len(cells(readme.in_short(tmp_path))) == 1


def test_it_is_written_where_its_marks_are_and_else_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(pages, "BLOCKS", {TABLE: page})
    monkeypatch.setattr(readme, "in_short", lambda: "a table\n")
    monkeypatch.setattr(readme, "SECTIONS", {TABLE: readme.in_short})
    page.write_text("no marks\n")
    readme.main()
    assert capsys.readouterr().out == "a table\n"
    assert page.read_text() == "no marks\n"
    page.write_text(f"before\n<!-- {TABLE} -->\nold\n<!-- /{TABLE} -->\nafter\n")
    readme.main()
    assert capsys.readouterr().out == ""
    assert page.read_text() == f"before\n<!-- {TABLE} -->\na table\n<!-- /{TABLE} -->\nafter\n"


def test_a_set_that_is_scored_in_part_says_so() -> None:
    assert readme._scored("gemma3-5x8", 40) == "40"
    assert readme._scored("gemma3-5x8", 3) == "3 of 40"
