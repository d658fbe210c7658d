"""A new core takes no task's accuracy in silence: what had a limit of its own keeps its error."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydraopt import merge, open_bundle, read_adapter, read_adapters, verify_bundle
from hydraopt.bundle import distance_from
from hydraopt.files import to_json
from hydraopt.merging import Limit, add, expected_saving, refresh, replace
from tests.conftest import write_adapter
from tests.merging.merge_cases import modules_of

FINE = Limit(error=0.01)
DAY = "2026-03-01"


def _errors(path: Path) -> dict[str, float]:
    return {name: task.error for name, task in open_bundle(path).items()}


class _Passes:
    """Counts the passes over the tasks."""

    def __init__(self) -> None:
        self.stages: set[str] = set()

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.stages.add(stage)


@pytest.mark.parametrize("given", [True, False], ids=["originals", "decoded"])
def test_a_task_that_was_added_within_an_error_keeps_it(
    four: Path, adapters: dict[str, Path], given: bool
) -> None:
    add(four, [adapters["e"]], limit=FINE, day=DAY)
    before = _errors(four)
    originals = [adapters[name] for name in "abcde"] if given else []
    expected = expected_saving(four, adapters=originals)
    done = refresh(four, adapters=originals)
    most = 1.0 if given else 1.1
    assert 0.8 * before["e"] < done.errors["e"] <= most * before["e"] * 1.001
    assert distance_from(open_bundle(four)["e"], read_adapter(adapters["e"])) < 0.0115
    for name in "abcd":  # at the common price
        assert done.errors[name] > 0.07
    grown = {x.name for x in done.grown}
    assert grown == {name for name in before if done.errors[name] > 1.1 * before[name]}
    assert "e" not in grown
    assert expected.grown == done.grown
    assert expected.decoded == (0 if given else 5)
    after = open_bundle(four)
    assert expected.expected_bytes == len(after.read("shared")) + sum(
        size for name, size in after.tensor_bytes.items() if name.startswith("task/")
    )


def test_a_task_that_was_replaced_within_an_error_keeps_it(
    four: Path, adapters: dict[str, Path]
) -> None:
    replace(four, [adapters["b"]], limit=FINE, day=DAY)
    done = refresh(four, adapters=[adapters[name] for name in "abcd"])
    assert done.errors["b"] <= 0.0101


@pytest.mark.slow
def test_a_task_that_was_added_coarsely_stays_small(four: Path, adapters: dict[str, Path]) -> None:
    add(four, [adapters["e"]], limit=Limit(error=0.5), day=DAY)
    before = open_bundle(four)
    held = {name: before.tensor_bytes[f"task/{before[name].entry.content}"] for name in before}
    done = refresh(four, adapters=[adapters[name] for name in "abcde"])
    after = open_bundle(four)
    assert done.errors["e"] == pytest.approx(before["e"].error, rel=0.1)
    assert after.tensor_bytes[f"task/{after['e'].entry.content}"] < 1.2 * held["e"]


def test_a_task_of_the_merge_keeps_what_it_was_worth_there(
    adapters: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "worth.hydra.safetensors"
    originals = [adapters[name] for name in "abcd"]
    merge(originals, path, error=0.1, importance={"a": 40.0})
    before = _errors(path)
    assert before["a"] < 0.5 * before["c"]
    done = refresh(path, adapters=originals)
    assert done.errors["a"] <= 1.001 * before["a"]
    assert done.grown == ()
    assert verify_bundle(path, read_adapters(originals)).ok


def test_tasks_at_the_common_price_take_one_pass(
    four: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    nothing = {path: (0 * b, a) for path, (b, a) in modules_of(7).items()}
    zero = write_adapter(tmp_path / "zero", nothing)
    add(four, [zero], day=DAY)
    for originals in ([], [*(adapters[name] for name in "abcd"), zero]):
        passes = _Passes()
        expected_saving(four, adapters=originals, progress=passes)
        assert passes.stages == {"reading", "coding"}


@pytest.mark.slow
def test_a_new_limit_is_for_all_and_names_who_loses(four: Path, adapters: dict[str, Path]) -> None:
    add(four, [adapters["e"]], limit=FINE, day=DAY)
    before = _errors(four)
    done = refresh(four, error=0.3)
    told = {x.name: (x.before, x.after) for x in done.grown}
    assert told == {name: (before[name], done.errors[name]) for name in "abcde"}
    assert to_json(done)["grown"][4]["name"] == "e"
