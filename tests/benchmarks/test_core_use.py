"""What a task needs of the core: vectors with a coordinate, and what lies before the last one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.coding.core_use import measure, use, vectors_of
from hydraopt.coding.forms import Way
from hydraopt.coding.records import PartsRecord
from hydraopt.coding.side import BasisRecord, Side
from hydraopt.coding.stream import Block
from hydraopt.collection.opening import open_bundle

GOLDEN = Path(__file__).parents[1] / "bundle" / "golden" / "second.hydra.safetensors"


def block(integers: list[list[int]]) -> Block:
    numbers = np.array(integers, np.int32)
    return Block(numbers, numbers, np.zeros(len(numbers), np.int64))


def test_vectors_without_a_coordinate_are_not_used() -> None:
    basis = BasisRecord(block([[1] * 4, [2] * 4, [3] * 4]), np.zeros(3, np.int64))
    left = Side(Way.SHARED, block([[0, 0, 5], [1, 0, 0]]), None, np.zeros((4, 2)))
    right = Side(Way.EXPLICIT, None, block([[1] * 6, [2] * 6]), np.zeros((6, 2)))
    record = PartsRecord(left, right, np.zeros(2, np.int64))
    assert vectors_of((basis, None), record).tolist() == [[4, 4, 4], [4, 0, 4]]
    assert vectors_of((None, basis), record).tolist() == [[4, 4, 4], [0, 0, 0]]
    assert vectors_of((basis, basis), None).tolist() == [[4] * 6, [0] * 6]


def test_a_chunk_is_decoded_up_to_the_last_vector_that_is_used() -> None:
    first = np.array([[4, 4, 4], [0, 4, 0]])
    second = np.array([[7, 7], [7, 0]])
    assert use([first, second]) == (11, 19)
    assert use([first[:, :1]]) == (0, 0)
    assert use([]) == (0, 0)


def test_a_bundle_is_measured() -> None:
    row = measure(GOLDEN)
    tasks = {task["task"]: task for task in row["tasks"]}
    assert set(tasks) == set(open_bundle(GOLDEN))
    assert tasks["de"] | {"task": "same"} == tasks["same"]
    for task in tasks.values():
        assert 0 < task["used"] <= task["reached"] < row["core"]
