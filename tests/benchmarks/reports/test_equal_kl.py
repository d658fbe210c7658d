"""Bytes at equal KL: the factor between two curves, task by task."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import pages
from benchmarks.reports import rivals, same_rows
from benchmarks.reports.equal_kl import at_equal_kl, in_short
from benchmarks.reports.factors import Compared
from benchmarks.reports.rivals import of_rivals
from benchmarks.reports.same_rows import Result, picked

SHARES = {"a": 0.1, "b": 0.05, "r1": 0.4, "r2": 0.2, "r3": 0.05}
METHODS = {
    label: {"method": "rival" if label[0] == "r" else "hydraopt", "setting": label, "share": share}
    for label, share in SHARES.items()
}


def task(scale: float, rows: int = 6):
    """KL falls as the square of bytes; the rival takes twice the bytes."""
    of = {"a": 0.1, "b": 0.05, "r1": 0.2, "r2": 0.1, "r3": 0.025}
    spread = np.linspace(0.5, 1.5, rows)
    return {
        label: np.stack([np.zeros(rows), scale * size**-2 * spread], axis=1)
        for label, size in of.items()
    }


def compared(tasks, label: str, rival: str = "rival") -> Compared:
    result = Result("set", "base", METHODS, tasks, {key: {} for key in tasks}, {})
    found = Compared.of(result, label, rival)
    assert found is not None
    return found


def test_a_rival_that_takes_twice_the_bytes() -> None:
    tasks = {"x": task(1.0), "y": task(7.0, 4)}
    for label in "ab":
        found = compared(tasks, label)
        assert [x.log for x in found.factors()] == pytest.approx([math.log(2)] * 2)
        assert [x.side for x in found.factors()] == [0, 0]
        assert found.of_each_task() == found.of_mean() == "2.00 [2.00, 2.00]"


def test_a_kl_that_no_size_of_the_rival_has_counts_with_the_bytes_of_the_end() -> None:
    worse, better = task(1.0), task(1.0)
    for label in ("r1", "r2", "r3"):
        worse[label], better[label] = (worse[label] * [1, x] for x in (1e3, 1e-3))
    (found,) = compared({"x": worse}, "a").factors()
    assert found == (pytest.approx(math.log(4)), -1)
    assert compared({"x": worse}, "a").of_each_task() == "at least 4.00"
    (found,) = compared({"x": better}, "a").factors()
    assert found == (pytest.approx(math.log(0.5)), 1)
    assert compared({"x": better}, "a").of_mean() == "at most 0.50"


def test_bounds_that_say_nothing_are_left_out() -> None:
    both = {"x": task(1.0), "y": task(1.0)}
    both["x"]["a"], both["y"]["a"] = both["x"]["a"] * [1, 1e3], both["y"]["a"] * [1, 1e-3]
    assert compared(both, "a").of_each_task() == "-"
    low = {"x": {**task(1.0), "a": task(1.0)["a"] * [1, 1e-3]}}
    methods = {**METHODS, "a": {**METHODS["a"], "share": 0.5}}
    found = Compared.of(Result("set", "base", methods, low, {"x": {}}, {}), "a", "rival")
    assert found
    assert found.of_each_task() == "-"


def test_a_rival_of_one_size_is_compared_at_its_own_kl(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(same_rows, "QUALITY", tmp_path)
    few = {"r1": "M=8 r=8", "r2": "lost", "r3": "M=1 r=8"}
    methods = {x: about for x, about in METHODS.items() if x in ("a", "b", *few)}
    for label, setting in few.items():
        methods[label] = {**methods[label], "method": "HydraOpt", "setting": setting}
    methods |= {x: {**methods[x], "setting": y} for x, y in (("a", "10%"), ("b", "5%"))}
    methods["unmeasured"] = {**methods["r1"], "setting": "M=4 r=8"}
    rows = [
        {"adapter": name, "metric": "exact match", "method": label, "values": values}
        for name, scale in (("x", 1.0), ("y", 7.0))
        for label, values in _stored(scale).items()
        if label in methods or label == "original"
    ]
    for row in rows:
        if row["method"] == "r2":  # changes all answers, so it is left out
            row["values"] = [[1.0, *rest] for _, *rest in row["values"]]
    result = {"base": "b-1m", "methods": methods, "rows": rows}
    (tmp_path / "examples.equal-kl.json").write_text(json.dumps(result))
    lines = [[x.strip() for x in line.split("|")[1:-1]] for line in of_rivals().splitlines()[2:]]
    # r1 takes four times the bytes of hydraopt at its KL, which is beyond both sizes of hydraopt;
    # as many heads as tasks are called T.
    assert lines == [
        ["HydraOpt", "M=T r=8", "40 %", "0.0 %", "at most 4.00"],
        ["HydraOpt", "M=1 r=8", "5 %", "0.0 %", "at least 1.00"],
    ]


def _stored(scale: float) -> dict[str, list[list[float]]]:
    made = {label: [[*row, 1.0] for row in x.tolist()] for label, x in task(scale).items()}
    return {**made, "original": [[0.0, 0.0, 1.0]] * 6}


def test_tasks_that_one_lacks_do_not_count() -> None:
    tasks = {"x": task(1.0), "y": task(7.0), "z": {"a": task(1.0)["a"]}}
    assert compared(tasks, "a").kl.keys() == {"x", "y"}
    result = Result("set", "base", METHODS, {"z": tasks["z"]}, {"z": {}}, {})
    assert Compared.of(result, "a", "rival") is None
    assert Compared.of(result, "a", "other") is None


def test_rows_count_as_often_as_they_are_drawn() -> None:
    one = task(1.0, 2)
    one["b"][0, 1] /= 1.5
    found = compared({"x": one}, "b")
    assert found.factors(np.array([0.5, 0.9])) < found.factors()


def test_the_mean_weighs_tasks_by_their_kl() -> None:
    tasks = {"x": task(1.0), "y": task(1.0, 4)}
    for label in ("r1", "r2", "r3"):
        tasks["y"][label] = tasks["y"][label] * [1, 1e-3]
    found = compared(tasks, "b")
    one, other = (x.log for x in found.factors())
    assert other < found.factor(found.means().mean(axis=0)).log < one


def test_a_task_of_fewer_rows_counts_as_much() -> None:
    tasks = {"x": task(1.0, 4), "y": task(1.0, 7)}
    tasks["y"]["a"] = tasks["y"]["a"] * [1, 3.0]
    of_each = compared(tasks, "a").means()[:, 0]
    assert of_each[1] == pytest.approx(3 * of_each[0])
    means = []
    for rows in (4, 40):
        other = task(1.0, rows)
        for label in ("r1", "r2", "r3"):
            other[label] = other[label] * [1, 1e-3]
        means.append(compared({"x": task(1.0, 4), "y": other}, "b").of_mean().split()[0])
    assert means[0] == means[1] != "2.00"
    assert picked(np.array([0.0, 0.3, 0.99, 0.5]), 3).tolist() == [0, 0, 2]


def test_an_interval_that_ends_with_the_rival_s_sizes_says_so() -> None:
    # Half of the rows have a KL far above the mean: draws of them go beyond the rival's smallest.
    near = task(1.0, 2)
    near["b"] = near["b"] * [[1, 0.1], [1, 5.0]]
    text = compared({"x": near}, "b").of_each_task()
    assert "<" in text
    assert ">" not in text
    assert "<" not in compared({"x": near}, "a").of_each_task()


@pytest.fixture
def stored(monkeypatch, tmp_path: Path) -> Path:
    """A set with sizes of ours, one of them of another study, a coded rival and one under way."""
    for module in (same_rows, pages):
        monkeypatch.setattr(module, "QUALITY" if module is same_rows else "PICTURES", tmp_path)
    names = {"a": ("hydraopt", "10%"), "b": ("hydraopt", "5%"), "near": ("hydraopt", "5.04%")}
    names["learnt"] = ("hydraopt, prompts", "5%")
    names |= {x: ("coded svd", x) for x in ("r1", "r2", "r3")} | {"under way": ("group", "4 bit")}
    shares = {**SHARES, "near": 0.0504, "learnt": 0.05, "under way": 0.3}
    methods = {
        x: {"method": method, "setting": setting, "share": shares[x], "bytes": 1, "error": 0.1}
        for x, (method, setting) in names.items()
    }
    methods["learnt"]["prompts"] = 9
    rows = [
        {"adapter": name, "metric": "exact match", "method": label, "values": values}
        for name, scale in (("x", 1.0), ("y", 7.0))
        for label, values in {**_stored(scale), "learnt": [[0.0, 1e-3, 1.0]] * 6}.items()
    ]
    result = {"base": "b-135m", "methods": methods, "rows": rows}
    (tmp_path / "examples.equal-kl.json").write_text(json.dumps(result))
    return tmp_path


def test_tables_of_a_run_under_way(stored: Path) -> None:
    head, _, *lines = [
        [x.strip() for x in line.split("|")[1:-1]] for line in at_equal_kl().splitlines()
    ]
    assert head == ["set, tasks", "rival", "KL", "at the KL of 10%", "at the KL of 5%"]
    twice = "2.00 [2.00, 2.00]"
    assert lines == [
        ["`examples`, 2", "coded svd", kl, twice, twice] for kl in ("of each task", "mean")
    ]
    assert of_rivals() == "Not measured yet.\n"  # no row of the other rival
    text = " ".join(in_short().split())
    assert "takes 2.0 times the bytes" in text
    assert "At 5 %, 0.0 instead of 0.0 % (`examples`) of the answers change [with 9 prompts" in text
    assert "| 135 M, `examples` | 2, 12 | +0.0 % [+0.0, " in in_short()


def test_a_size_with_only_bounds_has_no_column(stored: Path) -> None:
    file = stored / "examples.equal-kl.json"
    result = json.loads(file.read_text())
    for row in (x for x in result["rows"] if x["method"] == "b"):
        row["values"] = [[changed, 1e6, *score] for changed, _, *score in row["values"]]
    del result["methods"]["learnt"]
    file.write_text(json.dumps(result))
    head = at_equal_kl().splitlines()[0]
    assert "10%" in head
    assert "5%" not in head


def test_the_sentence_on_prompts_is_of_the_smallest_size_that_most_sets_have(stored: Path) -> None:
    file = stored / "examples.equal-kl.json"
    result = json.loads(file.read_text())
    for label, share, kl in (("small", 0.05, 4e-3), ("large", 0.2, 2.5e-4)):
        about = {"method": "coded svd, prompts", "setting": label, "share": share, "prompts": 9}
        result["methods"][label] = {**result["methods"]["learnt"], **about}
        rows = [x for x in result["rows"] if x["method"] == "learnt"]
        result["rows"] += [{**x, "method": label, "values": [[0.0, kl, 1.0]] * 6} for x in rows]
    few = json.loads(json.dumps(result))  # of whose rival only a lower bound below 1 is known
    few["methods"]["small"]["share"], few["methods"]["large"]["share"] = 0.02, 0.03
    for row in (x for x in few["rows"] if x["method"] in ("small", "large")):
        row["values"] = [[0.0, 1e-2, 1.0]] * 6
    large = {**result["methods"]["learnt"], "setting": "10%", "share": 0.1}
    for made in (result, few):  # as many sets have 10 %, which comes first
        made["methods"] = {"learnt at 10 %": large, **made["methods"]}
        rows = [x for x in made["rows"] if x["method"] == "learnt"]
        made["rows"] += [{**x, "method": "learnt at 10 %"} for x in rows]
    file.write_text(json.dumps(result))
    (stored / "gemma3-fresh6.equal-kl.json").write_text(json.dumps(few))
    text = " ".join(in_short().split())
    both = "0.0 instead of 0.0 % (`examples`) and 0.0 instead of 0.0 % (`gemma3-fresh6`)"
    assert f"At 5 %, {both} of the answers change" in text
    assert "the rival with the same prompts takes 2.0 (`examples`) times the bytes." in text
    assert "At 10 %" not in text


@pytest.mark.slow
def test_a_picture_of_a_run_under_way(stored: Path) -> None:
    rivals.draw()
    assert (stored / "rivals.png").is_file()
