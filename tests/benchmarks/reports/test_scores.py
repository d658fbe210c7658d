"""The headline says what the result files say."""

from __future__ import annotations

import json
import math

import pytest

from benchmarks.headline import lines
from benchmarks.quality.harness.scoring import check_originals
from benchmarks.quality.sets import pinned
from benchmarks.reports.scores import headline, result_files
from benchmarks.reports.tables import CHANGED, changed, table
from tests.benchmarks.reports.test_verdict import result as rivals_result

SPEED = {"speed": {"rows": [], "absent": []}}
LABEL = "hydraopt-5pct.hydra.safetensors"


def task(name: str, score: float, change: float, agreement: float):
    return {
        "adapter": name,
        "metric": "chrF",
        "results": {
            "base": {"scores": {}},
            "original": {"scores": {"chrF": score}},
            LABEL: {
                "scores": {"chrF": score + change},
                "difference": {"chrF": {"difference": change, "deviation": 1.0}},
                "agreement": agreement,
                "kl": 0.01,
                "recovery": 1.25,
            },
        },
    }


@pytest.fixture
def folder(tmp_path):
    result = {
        "set": "gemma3-5x8",
        "adapters": pinned()["gemma3-5x8"][1],
        "methods": {
            LABEL: {
                "method": "hydraopt",
                "bytes": 1000,
                "size_pct": 5.0,
                "errors": {"a": 0.25, "b": 0.75, "c": 0.5},
            }
        },
        "guess": [{"fraction": 0.01, "error": 0.8}, {"fraction": 0.25, "error": 0.2}],
        "tasks": [
            task("a", 80.0, -4.0, 98.0),
            task("b", 50.0, 0.5, 100.0),
            task("c", 0.0, 0.0, 99.0),
        ],
    }
    (tmp_path / "gemma3-5x8.sizes.json").write_text(json.dumps(result))
    (tmp_path / "other.json").write_text("{}")
    return tmp_path


def test_drops_are_in_percent_of_the_original_score(folder) -> None:
    ((name, entry),) = headline(folder)["sets"].items()
    assert (name, entry["n"]) == ("gemma3-5x8", 3)
    (row,) = entry["rows"]
    assert (row["tasks"], row["left_out"]) == (2, ["c"])
    assert row["worst_task"] == "a"
    assert row["worst_drop_pct"] == 5.0
    assert row["mean_drop_pct"] == pytest.approx((5.0 - 1.0) / 2)
    half = 1.96 * math.hypot(100 / 80, 100 / 50) / 2
    assert row["mean_drop_interval"] == pytest.approx([2 - half, 2 + half], abs=1e-4)
    assert row["top1_agreement_pct"] == 99.0
    assert row["relative_error"] == 0.5
    assert row["guessed_error"] == pytest.approx(0.4)  # 5 % is half way, in logarithms
    assert row["mean_recovery_pct"] == 100.0
    assert row["results"] == ["benchmarks/results/quality/gemma3-5x8.sizes.json"]


def test_answers_that_change_stand_beside_the_drop(folder) -> None:
    """Where all tasks were scored so; else nothing is said."""
    path = folder / "gemma3-5x8.sizes.json"
    result = json.loads(path.read_text())
    for task_, share in zip(result["tasks"], (1.0, 2.0, 6.0), strict=True):
        (row,) = headline(folder)["sets"]["gemma3-5x8"]["rows"]
        assert (row["changed_pct"], row["kl_answer"], row["kl"]) == (None, None, 0.01)
        assert "answers changed not measured" in "\n".join(lines({**headline(folder), **SPEED}))
        task_["results"][LABEL] |= {"changed_pct": share, "kl_answer": share / 10}
        path.write_text(json.dumps(result))
    (row,) = headline(folder)["sets"]["gemma3-5x8"]["rows"]
    assert (row["changed_pct"], row["kl_answer"]) == (3.0, 0.3)
    assert "answers changed 3.00 %" in "\n".join(lines({**headline(folder), **SPEED}))


def test_a_column_of_dashes_is_left_out() -> None:
    rows = [["a", changed({}), "1"], ["b", changed({"changed_pct": None}), "2"]]
    assert table(["x", CHANGED, "y"], rows) == table(["x", "y"], [["a", "1"], ["b", "2"]])
    rows[0][1] = changed({"changed_pct": 1.25})
    assert "| a | 1.2 % | 1 |" in table(["x", CHANGED, "y"], rows)


def test_a_method_without_scores_is_no_row(folder) -> None:
    path = folder / "gemma3-5x8.sizes.json"
    result = json.loads(path.read_text())
    result["methods"]["other"] = {"method": "other", "bytes": 1, "size_pct": 1.0, "errors": {}}
    path.write_text(json.dumps(result))
    assert [row["method"] for row in headline(folder)["sets"]["gemma3-5x8"]["rows"]] == ["hydraopt"]


def test_what_was_looked_at_closer_counts_instead(folder) -> None:
    """If all of the same bundle was scored again, and not for another bundle."""
    path = folder / "gemma3-5x8.sizes.json"
    result = json.loads(path.read_text()) | {"bundles": {LABEL: {"bytes": 1000, "sha256": "s"}}}
    path.write_text(json.dumps(result))
    again = [task("a", 40.0, -0.4, 90.0), task("b", 50.0, 0.5, 100.0), task("c", 0.0, 0.0, 99.0)]
    closer = result | {"plan": "closer", "tasks": [x | {"rows": 500} for x in again]}
    (folder / "gemma3-5x8.closer.json").write_text(json.dumps(closer))
    (row,) = headline(folder)["sets"]["gemma3-5x8"]["rows"]
    assert row["mean_drop_pct"] == pytest.approx((1.0 - 1.0) / 2)
    assert (row["worst_task"], row["worst_drop_pct"], row["test_rows"]) == ("a", 1.0, 1500)
    files = ["gemma3-5x8.sizes.json", "gemma3-5x8.closer.json"]
    assert row["results"] == [f"benchmarks/results/quality/{file}" for file in files]

    # Of one task alone, which did badly the first time, it would make the mean look better.
    some = closer | {"tasks": closer["tasks"][:1]}
    (folder / "gemma3-5x8.closer.json").write_text(json.dumps(some))
    assert headline(folder)["sets"]["gemma3-5x8"]["rows"][0]["worst_drop_pct"] == 5.0

    closer["bundles"] = {LABEL: {"bytes": 1000, "sha256": "another"}}
    (folder / "gemma3-5x8.closer.json").write_text(json.dumps(closer))
    (row,) = headline(folder)["sets"]["gemma3-5x8"]["rows"]
    assert row["worst_drop_pct"] == 5.0


def test_a_bundle_that_two_runs_scored_stands_once(folder) -> None:
    path = folder / "gemma3-5x8.sizes.json"
    result = json.loads(path.read_text()) | {"plan": "rivals"}
    result["tasks"] = [task("a", 40.0, -0.4, 90.0) | {"rows": 500}]
    result["methods"][LABEL] |= {"setting": ""}
    (folder / "gemma3-5x8.rivals.json").write_text(json.dumps(result))
    (row,) = headline(folder)["sets"]["gemma3-5x8"]["rows"]
    assert (row["tasks"], row["test_rows"]) == (1, 500)  # more rows, fewer tasks
    result["methods"][LABEL] |= {"bytes": 999}
    (folder / "gemma3-5x8.rivals.json").write_text(json.dumps(result))
    (row,) = headline(folder)["sets"]["gemma3-5x8"]["rows"]
    assert (row["bytes"], row["tasks"]) == (1000, 2)  # another bundle, over a part of the tasks
    result["tasks"] = json.loads(path.read_text())["tasks"]
    (folder / "gemma3-5x8.rivals.json").write_text(json.dumps(result))
    assert len(headline(folder)["sets"]["gemma3-5x8"]["rows"]) == 2


@pytest.mark.parametrize("split", ["test", "validation"])
def test_differences_are_from_the_originals_of_their_own_result(split: str) -> None:
    for name, result in result_files(split=split):
        for task in result["tasks"]:
            check_originals(task, name)


def test_rivals_are_compared_over_tasks_that_all_of_them_have(tmp_path) -> None:
    stored = rivals_result()
    del stored["tasks"][0]["results"]["far behind"]
    (tmp_path / "gemma3-5x8.rivals.json").write_text(json.dumps(stored))
    ((_, found),) = result_files(tmp_path)
    assert [task["adapter"] for task in found["tasks"]] == ["b"]
