"""Parts of one merge that were scored apart are one table, others are not."""

from __future__ import annotations

import json

import pytest

from benchmarks.reports import alike
from benchmarks.reports.alike import _joined


def test_results_of_the_same_bundles_are_one() -> None:
    bundles = [{"a": {"sha256": x}} for x in "xy"]
    results = {
        "set-slots.alike.json": {"bundles": bundles[0], "tasks": ["slots"], "prompts": 48},
        "set.alike.json": {"bundles": bundles[1], "tasks": ["mood"], "prompts": 24},
        "set-mood.alike.json": {"bundles": bundles[0], "tasks": ["mood"], "prompts": 48},
    }
    joined = [(files, made["tasks"], made["prompts"]) for files, made in _joined(results)]
    assert joined == [
        (["set-slots.alike.json", "set-mood.alike.json"], ["slots", "mood"], 48),
        (["set.alike.json"], ["mood"], 24),
    ]


@pytest.mark.parametrize("kind", ["curves", "ways"])
def test_sizes_that_were_shared_out_stand_beside_others(monkeypatch, tmp_path, kind) -> None:
    monkeypatch.setattr(alike, "QUALITY", tmp_path)
    monkeypatch.setattr(alike, "_tables", lambda file, result: f"{file} {list(result)}")
    judge = {"split": "validation", "count": 24}
    result = {
        "set": "set",
        "adapters": {"a-de": "", "b-de": "", "c-de": ""},
        "methods": {"plain": {"options": {}}, "judged": {"options": {"judge": judge}}},
        "tasks": [{"rows": 300}, {"rows": 950}],
    }
    (tmp_path / f"set.{kind}.json").write_text(json.dumps(result))
    text = alike.SECTIONS["shared out"]()
    assert text.startswith(
        "set (other adapters): 3 merged, 2 scored, 1,250 test rows, 24 prompts a task at most"
    )
    assert f"of validation rows (`set.{kind}.json`)" in text
    assert text.endswith(f"set.{kind}.json ['set', 'adapters', 'methods', 'tasks']")


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"products": "float32"},
        {"adapters": {}},
        {"tasks": []},
        {"rows": 299},
        {"methods": {"curves": {"options": {"judge": {"split": "train", "count": 24}}}}},
    ],
)
def test_refits_stand_beside_what_others_made_of_the_same_rows(
    monkeypatch, tmp_path, other
) -> None:
    monkeypatch.setattr(alike, "QUALITY", tmp_path)
    seen = []
    monkeypatch.setattr(alike, "_tables", lambda file, result: seen.append(result) or "")
    judge = {"split": "validation", "count": 24, "learned": 300}

    def stored(plan: str, method: str, names: str, **more: object) -> None:
        tasks = [
            {"adapter": x, "rows": 300, "sha256": x, "results": {"original": {}, method: {}}}
            for x in names
        ]
        methods = {method: {"options": {"judge": judge}}, f"{method} 9%": {"options": {}}}
        for task in tasks if plan == "refit" else ():
            task["results"][f"{method} 9%"] = {}
        same = {"set": "set", "adapters": {"a": "1"}, "products": "bfloat16", "split": "test"}
        result = {**same, "methods": methods, "tasks": tasks, **more}
        (tmp_path / f"set.{plan}.json").write_text(json.dumps(result))

    stored("refit", "refit", "a")
    rows = [{"adapter": "a", "rows": other["rows"], "sha256": "a"}] if "rows" in other else None
    stored("ways", "curves", "ab", **({"tasks": rows} if rows else other))
    text = alike.SECTIONS["shared out"]()
    assert "1 scored, 300 test rows, 24 prompts" in text
    assert "and 300 training rows for refits (`set.refit.json`" in text
    result = seen[-1]
    # "curves 9%" was not scored.
    joined = [*(["curves"] if other == {} else []), "refit", "refit 9%"]
    assert list(result["methods"]) == joined
    assert [list(task["results"]) for task in result["tasks"]] == ([["original", *joined]])
    assert ("; others `set.ways.json`)" in text) == (other == {})


def test_what_has_the_same_name_stands_beside_a_refit_first(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(alike, "QUALITY", tmp_path)
    monkeypatch.setattr(alike, "_tables", lambda file, result: f"{file}: {[*result['methods']]}")
    judge = {"split": "validation", "count": 24}
    same = {"set": "set", "adapters": {"a": "1"}, "products": "bfloat16", "split": "test"}
    for file in ("set-x.refit-alone", "set-x.harm", "set.harm", "set.curves"):
        task = {"adapter": "a", "rows": 300, "sha256": "a", "results": {file: {}}}
        methods = {file: {"options": {"judge": judge}}}
        result = {**same, "methods": methods, "tasks": [task]}
        (tmp_path / f"{file}.json").write_text(json.dumps(result))
    text = alike.SECTIONS["shared out"]()
    assert "set-x.refit-alone.json: ['set-x.harm', 'set-x.refit-alone']" in text
    (tmp_path / "set-x.harm.json").unlink()
    text = alike.SECTIONS["shared out"]()
    assert "set-x.refit-alone.json: ['set.harm', 'set-x.refit-alone']" in text


def test_applications_have_means_intervals_and_sure_drops() -> None:
    """One that drops for sure, one that may, and one that gains nothing."""
    drops = {"a-de": (10.0, 2.0), "a-en": (2.0, 2.0), "b-en": (0.0, 1.0)}
    tasks = [
        {
            "adapter": name,
            "task": name[0],
            "metric": "f1",
            "results": {
                "original": {"scores": {"f1": 50.0}},
                "x": {
                    "difference": {"f1": {"difference": -drop / 2, "deviation": deviation / 2}},
                    "changed_pct": drop,
                    "kl_answer": kl,
                },
            },
        }
        for (name, (drop, deviation)), kl in zip(drops.items(), (0.01, 0.04, 0.16), strict=True)
    ]
    method = {"method": "hydraopt", "setting": "5%"}
    lines = alike._applications({"tasks": tasks, "methods": {"x": method}}).splitlines()
    rows = {
        cells[1]: cells[2:-1] for cells in ([y.strip() for y in x.split("|")] for x in lines[2:])
    }
    # The standard error of a mean of two: sqrt(4 + 4) / 2.
    assert rows["a"] == ["2", "6.0 [3.2, 8.8]; 1 sure", "6.0", "0.0200"]
    assert rows["b"] == ["1", "0.0 [-2.0, 2.0]; 0 sure", "0.0", "0.1600"]
    assert rows["all"] == ["3", "4.0 [2.0, 6.0]; 1 sure", "4.0", "0.0400"]
    assert rows["all but a-de"][:2] == ["2", "1.0 [-1.2, 3.2]; 0 sure"]
