"""What methods hold and do as tasks become many: factors, not a dense core of each task."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from method_cases import apart, dense, unrelated

from hydraopt.linalg.shapes import Array
from hydraopt.methods import METHODS
from hydraopt.methods.entries import elected, trimmed
from hydraopt.methods.small import small_core

IN_THE_CORE = [
    "average",
    "task-arithmetic",
    "core-ta",
    "core-ties",
    "knots-ties",
    "tsv-m",
    "iso-c",
    "peft-svd",
]


def test_the_core_gives_each_task_back() -> None:
    tasks = unrelated(0, 4)
    core = small_core(tasks)
    w = np.array([0.5, -1.0, 2.0, 0.0])
    for t, (each, f) in enumerate(zip(core.cores(), tasks, strict=True)):
        assert np.array_equal(each, core.core(t))
        assert apart(core.left @ each @ core.right.T, dense(f)) < 1e-12
    want = np.tensordot(w, np.stack([dense(f) for f in tasks]), 1)
    assert apart(core.left @ core.weighted(w) @ core.right.T, want) < 1e-12


def test_opposite_tasks_leave_exact_zeros() -> None:
    core = small_core([*unrelated(0, 1), *unrelated(0, 1)])
    assert not core.weighted(np.array([1.0, -1.0])).any()


@pytest.mark.parametrize("name", IN_THE_CORE)
def test_no_core_of_every_task_is_held(name: str) -> None:
    # Dense cores of all tasks would take 64 * 128 * 128 numbers, 8 MB.
    tasks = unrelated(0, 64, 160, 160, 2)
    METHODS[name].run(tasks[:2])
    tracemalloc.start()
    try:
        METHODS[name].run(tasks)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", IN_THE_CORE)
def test_work_grows_with_the_cube_of_all_ranks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    work = 0

    def counted(function: Any) -> Any:
        def run(matrix: Array, *args: Any, **named: Any) -> Any:
            nonlocal work
            work += matrix.size * min(matrix.shape)
            return function(matrix, *args, **named)

        return run

    for each in ("svd", "qr"):
        monkeypatch.setattr(np.linalg, each, counted(getattr(np.linalg, each)))
    METHODS[name].run(unrelated(0, 32, 80, 80, 2))
    # 64 parts in all: a few decompositions of all of them, and none of their size for each task.
    assert work < 10 * 80 * 64 * 64


def test_an_election_holds_no_more_than_a_few_matrices() -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(40)
    tracemalloc.start()
    try:
        elected((rng.standard_normal((100, 100)) for _ in weights), weights)
        assert tracemalloc.get_traced_memory()[1] < 12 * 80_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("density", [0.001, 0.1, 0.37, 0.8, 1.0])
def test_trimming_keeps_the_first_of_equal_ones(density: float) -> None:
    values = np.random.default_rng(0).integers(-3, 4, (30, 20)).astype(np.float64)
    order = np.argsort(-np.abs(values), axis=None, kind="stable")[: int(density * values.size)]
    want = np.zeros_like(values)
    want.flat[order] = values.flat[order]
    assert np.array_equal(trimmed(values, density), want)
