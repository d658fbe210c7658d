"""One set is one list of adapters: rows of other ones never stand beside its own."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.common import QUALITY
from benchmarks.quality.sets import SETS, pinned, set_of
from benchmarks.reports.scores import headline


@pytest.mark.parametrize("name", headline()["sets"])
def test_all_rows_of_a_set_are_of_the_same_adapters(name: str) -> None:
    files = {x for row in headline()["sets"][name]["rows"] for x in row["results"]}
    results = [json.loads((QUALITY / x.rpartition("/")[2]).read_text()) for x in files]
    assert all(result["adapters"] == results[0]["adapters"] for result in results)


@pytest.mark.parametrize("name", SETS)
def test_our_line_has_one_point_at_each_size(name: str) -> None:
    rows = [x for x in headline()["sets"][name]["rows"] if x["method"] == "hydraopt"]
    assert max(Counter(row["setting"] for row in rows).values()) == 1
    # The code set was trained anew, and scored at the default and at two sizes.
    assert len(rows) >= (3 if name == "qwen25coder-code5" else 7)


def test_adapters_belong_to_the_set_that_pins_them() -> None:
    recipe, hashes = pinned()["qwen25coder-code5"]
    assert set_of(recipe, hashes) == "qwen25coder-code5"
    some = dict(list(hashes.items())[:2])
    assert set_of(recipe, some) == "qwen25coder-code5"
    second = pinned()["qwen25coder-code5 (second training)"][1]
    assert set_of(recipe, second) == "qwen25coder-code5 (second training)"
    # Of each training some, none at all, and those of another recipe.
    (name, _), *_ = hashes.items()
    mixed = {**second, name: hashes[name]}
    for other in (mixed, {}, pinned()["smollm2-en10"][1]):
        assert set_of(recipe, other) == "qwen25coder-code5 (other adapters)"


def test_sets_that_tables_show_are_pinned_first() -> None:
    assert tuple(pinned())[: len(SETS)] == SETS
    assert all(pinned()[name][0] == name for name in SETS)
    assert {recipe for recipe, _ in pinned().values()} >= set(SETS)


def test_rows_of_other_adapters_are_another_set(tmp_path: Path) -> None:
    for name, file in (("sizes", "a"), ("rivals", "b")):
        result = json.loads((QUALITY / f"smollm2-en10.{name}.json").read_text())
        if file == "b":
            result["adapters"] = dict.fromkeys(result["adapters"], "trained again")
        (tmp_path / f"{file}.json").write_text(json.dumps(result))
    found = headline(tmp_path)["sets"]
    assert list(found) == ["smollm2-en10", "smollm2-en10 (other adapters)"]
    assert {row["results"][0] for row in found["smollm2-en10"]["rows"]} == {
        "benchmarks/results/quality/a.json"
    }
