"""What every kind of collection keeps to, whatever is done to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hydraopt import open_bundle, read_adapters, verify_bundle
from hydraopt.bundle import Added
from hydraopt.errors import HydraoptError, TaskNotFoundError, UsageError
from hydraopt.files import file_hash
from hydraopt.merging import Limit, add, remove, rename, replace
from tests.editing.living import all_bytes, copied, state

DAY = "2026-03-01"


def test_adding_changes_no_byte_of_another_task_or_of_the_core(
    four: Path, adapters: dict[str, Path]
) -> None:
    before = all_bytes(four)
    done = add(four, [adapters["e"]], day=DAY)
    after = all_bytes(four)
    assert {name: after[name] for name in before} == before
    assert sorted(after) == ["", *"abcde"]
    assert [task.name for task in done.added] == ["e"]
    assert done.size > done.size_before


def test_what_was_added_comes_back(four: Path, adapters: dict[str, Path]) -> None:
    add(four, [adapters["e"], adapters["f"]], day=DAY)
    originals = read_adapters([adapters[name] for name in "abcdef"])
    report = verify_bundle(four, originals)
    assert report.ok, report.problems
    errors = {task.name: task.error for task in report.tasks}
    assert max(errors["e"], errors["f"]) < 2 * max(errors[name] for name in "abcd")
    bundle = open_bundle(four)
    # e has integers, which are carried; f a head, of which the core has what others share.
    np.testing.assert_array_equal(
        bundle["e"].extras["base_model.model.buffer"].numpy(), np.arange(200)
    )
    assert bundle["f"].entry.tensors == bundle["b"].entry.tensors


def test_order_does_not_matter(four: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    other, third = (copied(four, tmp_path / name) for name in ("other", "third"))
    for name in "ef":
        add(four, [adapters[name]], day=DAY)
    for name in "fe":
        add(other, [adapters[name]], day=DAY)
    add(third, [adapters["f"], adapters["e"]], day=DAY)
    assert state(four) == state(other) == state(third)


def test_added_and_removed_leaves_what_was(four: Path, adapters: dict[str, Path]) -> None:
    before = state(four)
    add(four, [adapters["e"], adapters["f"]], day=DAY)
    remove(four, ["f", "e"])
    assert state(four) == before


def test_removing_leaves_no_byte_of_the_task(four: Path) -> None:
    before = all_bytes(four)
    remove(four, ["d"])
    after = all_bytes(four)
    assert after == {name: x for name, x in before.items() if name != "d"}
    held = b"".join(state(four).values())
    (stream,) = before["d"]
    assert stream[:64] not in held
    assert stream[-64:] not in held


def test_history_says_what_was_added_when(four: Path, adapters: dict[str, Path]) -> None:
    add(four, [adapters["e"]], day=DAY)
    digest = file_hash(adapters["e"] / "adapter_model.safetensors")[:16]
    history = {name: task.entry.added for name, task in open_bundle(four).items()}
    assert history == {**dict.fromkeys("abcd"), "e": Added(DAY, digest)}


def test_renaming_keeps_all_bytes(four: Path, adapters: dict[str, Path]) -> None:
    add(four, [adapters["e"]], day=DAY)
    before = all_bytes(four)
    rename(four, "e", "0-first")
    after = all_bytes(four)
    assert after.pop("0-first") == before.pop("e")
    assert after == before
    added = open_bundle(four)["0-first"].entry.added
    assert added is not None
    assert added.day == DAY


def test_replacing_is_removing_and_adding(
    four: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    before = all_bytes(four)
    replace(four, [f"d={adapters['e']}"], day=DAY)
    once = state(four)
    after = all_bytes(four)
    assert after.pop("d") != before.pop("d")
    assert after == before
    remove(four, ["d"])
    add(four, [f"d={adapters['e']}"], day=DAY)
    assert state(four) == once


@pytest.mark.parametrize("limit", [Limit(size="20%"), Limit(error=0.05), Limit(lossless=True)])
def test_limits_are_kept_of_each_adapter(
    four: Path, adapters: dict[str, Path], limit: Limit
) -> None:
    before = open_bundle(four).size if four.is_file() else None
    done = add(four, [adapters["e"], adapters["f"]], limit=limit, day=DAY)
    bundle = open_bundle(four)
    for task in done.added:
        entry = bundle[task.name].entry
        if limit.size:
            assert task.own_bytes <= 0.2 * task.fp16_bytes
        elif limit.error:
            assert 0.03 < entry.error <= 0.05
        else:
            assert (entry.lossless, entry.error) == (True, 0)
    if limit.size and before is not None:
        assert bundle.size - before <= 0.2 * sum(task.fp16_bytes for task in done.added)
    assert verify_bundle(four, read_adapters([adapters[name] for name in "abcdef"])).ok


def test_what_cannot_be_done_leaves_all_as_it_was(four: Path, adapters: dict[str, Path]) -> None:
    before = state(four)
    wrong: list[tuple[type[HydraoptError], object]] = [
        (UsageError, lambda: add(four, [adapters["a"]])),
        (TaskNotFoundError, lambda: replace(four, [adapters["e"]])),
        (TaskNotFoundError, lambda: remove(four, ["a", "e"])),
        (TaskNotFoundError, lambda: rename(four, "e", "x")),
        (UsageError, lambda: rename(four, "a", "b")),
        (UsageError, lambda: rename(four, "a", "x/y")),
        (UsageError, lambda: add(four, [], limit=Limit("5%", 0.1))),
    ]
    for kind, act in wrong:
        with pytest.raises(kind):
            act()  # type: ignore[operator]
        assert state(four) == before
