"""Bytes at equal KL: the factor between two curves, task by task."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.reports.equal_kl import (
    _cells,
    averaged,
    beyond,
    factors,
    interval,
    interval_of_mean,
)
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


def test_a_rival_that_takes_twice_the_bytes() -> None:
    tasks = {"x": task(1.0), "y": task(7.0, 4)}
    for label in "ab":
        found = factors(METHODS, tasks, "rival", label)
        assert found == pytest.approx([math.log(2)] * 2)
        assert beyond(METHODS, tasks, "rival", label) == (0, 0)
    assert interval(METHODS, tasks, "rival", "a") == (*(pytest.approx(2.0),) * 3,)


def test_a_kl_that_the_rival_does_not_reach_counts_with_the_bytes_of_the_end() -> None:
    tasks = {"x": task(1.0), "y": {k: v for k, v in task(1.0).items() if k not in ("r1", "r2")}}
    # Its one size, of half the bytes, has a larger KL: it takes at least so many.
    assert factors(METHODS, tasks, "rival", "a") == pytest.approx([math.log(2), math.log(0.5)])
    assert beyond(METHODS, tasks, "rival", "a") == (0, 1)
    tasks["y"] = {k: v for k, v in task(1.0).items() if k != "r3"}
    assert beyond(METHODS, tasks, "rival", "a") == (0, 0)
    tasks["y"] = {k: v for k, v in task(1.0).items() if k not in ("r2", "r3")}
    assert beyond(METHODS, tasks, "rival", "a") == (1, 0)
    assert factors(METHODS, tasks, "other", "a") == []
    tasks.pop("y")
    tasks["x"].pop("a")
    assert factors(METHODS, tasks, "rival", "a") == []


def test_rows_count_as_often_as_they_are_drawn() -> None:
    one = task(1.0, 2)
    one["b"][0, 1] /= 1.5
    (whole,) = factors(METHODS, {"x": one}, "rival", "b")
    (without,) = factors(METHODS, {"x": one}, "rival", "b", np.array([0.5, 0.9]))
    assert without < whole


def test_the_mean_weighs_tasks_by_their_kl() -> None:
    tasks = {"x": task(1.0), "y": task(1.0, 4)}
    for label in ("r1", "r2", "r3"):
        tasks["y"][label] = tasks["y"][label] * [1, 1e-3]
    (whole,) = factors(METHODS, averaged(tasks, ["x", "y"]), "rival", "b")
    one, other = factors(METHODS, tasks, "rival", "b")
    assert other < whole < one
    mean, low, high = interval_of_mean(METHODS, tasks, "rival", "b")
    assert mean == pytest.approx(math.exp(whole))
    assert low < mean < high


def test_a_task_of_fewer_rows_counts_as_much() -> None:
    tasks = {"x": {"a": np.full((4, 2), 3.0)}, "y": {"a": np.full((7, 2), 1.0)}}
    tasks["y"]["a"][:3] = 2.0  # its mean is 10 / 7
    (mean,) = averaged(tasks, ["x", "y"])["mean"]["a"]
    assert mean == pytest.approx([(3 + 10 / 7) / 2] * 2)
    assert picked(np.array([0.0, 0.3, 0.99, 0.5]), 3).tolist() == [0, 0, 2]


def test_cells_are_of_tasks_that_both_were_measured_on() -> None:
    tasks = {"x": task(1.0), "y": task(7.0), "z": {"a": task(1.0)["a"]}}
    result = Result("set", "base", METHODS, tasks, {key: {} for key in "wxyz"}, {})
    cells, means = _cells(result, "hydraopt", "rival")
    assert cells == {"a": "2.00 [2.00, 2.00]", "b": "2.00 [2.00, 2.00]"}
    assert means.keys() == {"a", "b"}
    tasks["x"]["a"] = tasks["x"]["a"] * [1, 1e3]  # a KL that no size of the rival has
    assert _cells(result, "hydraopt", "rival")[0]["a"].startswith("at most")
    tasks["y"]["a"] = tasks["y"]["a"] * [1, 1e-3]
    assert _cells(result, "hydraopt", "rival")[0]["a"] == "-"
    tasks["x"]["a"] = task(1.0)["a"]
    cells, means = _cells(result, "hydraopt", "rival")
    assert cells["a"].startswith("at least")
    assert cells["b"] == means["b"] == "2.00 [2.00, 2.00]"


def test_an_interval_that_ends_with_the_rival_s_sizes_says_so() -> None:
    # Half of the rows have a KL far above the mean: draws of them go beyond the rival's smallest.
    near = task(1.0, 2)
    near["b"] = near["b"] * [[1, 0.1], [1, 5.0]]
    result = Result("set", "base", METHODS, {"x": near}, {"x": {}}, {})
    cells, _ = _cells(result, "hydraopt", "rival")
    assert "<" in cells["b"]
    assert ">" not in cells["b"]
    assert "<" not in cells["a"]
