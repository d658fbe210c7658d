"""A new core: what it is expected to save, and what it is made of."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest

from hydraopt import merge, open_bundle, read_adapter, read_adapters, shrink, verify_bundle
from hydraopt.bundle import join, split
from hydraopt.codec import Factors, relative_error
from hydraopt.errors import BudgetError, TaskNotFoundError, UsageError
from hydraopt.inspect import inspect_bundle
from hydraopt.merging import Limit, add, expected_saving, refresh, remove
from tests.conftest import write_adapter
from tests.editing.living import copied, state
from tests.raising import raises
from tests.starting import started

DAY = "2026-03-01"


def test_from_all_originals_it_is_the_merge_at_that_price(
    four: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    # As it was merged: nothing was added, so nothing but the recipe may change.
    before = open_bundle(four)
    entries = {task.name: task for task in before.manifest.tasks}
    originals = [read_adapter(adapters[name]) for name in "abcd"]
    refresh(four, adapters=[*originals[:3], started(originals[3])])
    after = open_bundle(four)
    assert after.read("shared") == before.read("shared")
    for second in after.manifest.tasks:
        first = entries[second.name]
        assert dataclasses.replace(second, content=first.content) == first
    assert after.recipe == {**before.recipe, "refreshed": True}


def test_from_all_originals_nothing_is_estimated_any_more(
    four: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    small, originals = tmp_path / "small.hydra.safetensors", [adapters[x] for x in "abcd"]
    shrink(four, small, error=0.3)
    assert verify_bundle(small).estimated
    refresh(small, adapters=originals)
    assert not {"errors", "shrunk"} & open_bundle(small).recipe.keys()
    report = verify_bundle(small, read_adapters(originals))
    assert (report.ok, report.estimated) == (True, False)


def test_what_was_added_gets_into_the_core(four: Path, adapters: dict[str, Path]) -> None:
    add(four, [adapters["e"], adapters["f"]], day=DAY)
    before, expected = open_bundle(four), expected_saving(four)
    added = before["e"].entry.added
    originals = [adapters[name] for name in "abcdef"]
    done = refresh(four, adapters=originals)
    after = open_bundle(four)
    assert done.from_originals == tuple("abcdef")
    assert after.read("shared") != before.read("shared")
    assert verify_bundle(four, read_adapters(originals)).ok
    assert after["e"].entry.added == added
    assert (expected.tasks, expected.added) == (6, 2)
    coded = len(after.read("shared")) + sum(
        size for name, size in after.tensor_bytes.items() if name.startswith("task/")
    )
    assert expected.expected_bytes == pytest.approx(coded, rel=0.15)


def test_tasks_as_they_decode_take_the_place_of_originals(
    four: Path, adapters: dict[str, Path]
) -> None:
    add(four, [adapters["e"]], day=DAY)
    before = open_bundle(four)
    buffer = before["e"].extras["base_model.model.buffer"].raw()
    errors = {name: task.error for name, task in before.items()}
    refresh(four, adapters=[adapters["a"]], error=0.05)
    after = open_bundle(four)
    assert after.recipe["errors"] == "estimated"
    originals = {x.name: x for x in read_adapters([adapters[name] for name in "abcde"])}
    for name, task in after.items():
        true = originals[name].modules
        for path, factors in task.factors().items():
            stated = task.module_errors[path]
            actual = relative_error(Factors.of(*true[path].factors()), factors)
            assert actual == pytest.approx(stated, rel=0.35), (name, path)
        if name != "a":
            assert task.error > errors[name]
    assert after["e"].extras["base_model.model.buffer"].raw() == buffer


@pytest.mark.slow
def test_another_output_leaves_the_collection_as_it_was(
    four: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    add(four, [adapters["e"]], day=DAY)
    before = state(four)
    output = tmp_path / "output"
    done = refresh(four, output)
    assert state(four) == before
    assert done.path == output
    assert output.is_dir() == four.is_dir()
    assert list(open_bundle(output)) == list("abcde")
    refresh(four)
    assert state(four).values() != before.values()
    assert sorted(state(four).values()) == sorted(state(output).values())


def test_a_lossless_task_stays_lossless(four: Path, adapters: dict[str, Path]) -> None:
    add(four, [adapters["e"]], limit=Limit(lossless=True), day=DAY)
    before = open_bundle(four)["e"].tensors
    refresh(four)
    after = open_bundle(four)["e"]
    assert after.entry.lossless
    assert {k: x.raw() for k, x in after.tensors.items()} == {k: x.raw() for k, x in before.items()}


def test_a_lossless_collection_shares_again(adapters: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "lossless"
    merge([adapters["a"], adapters["c"]], path, lossless=True)
    add(path, [adapters["e"]], day=DAY)  # without a limit as all the others
    assert open_bundle(path)["e"].entry.lossless
    grown = open_bundle(path).size
    refresh(path)
    whole = tmp_path / "whole"
    merge([adapters[name] for name in "ace"], whole, lossless=True)
    assert open_bundle(path).size < grown
    blobs = [sorted(open_bundle(x).read_blob(i)) for x in (path, whole) for i in range(4)]
    assert blobs[:4] == blobs[4:]


def test_what_no_task_has_any_more_goes(
    one_file: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    from tests.merging.merge_cases import modules_of

    more = {**modules_of(9), "h.9.q": modules_of(8)["h.0.q"]}
    wide = write_adapter(tmp_path / "wide", more)
    path = tmp_path / "wider"
    merge([adapters["a"], adapters["b"], wide], path, error=0.1)
    remove(path, ["wide", "b"])
    bundle = open_bundle(path)
    assert len(bundle.manifest.modules) == 5
    assert len(bundle.manifest.tensors) == 1
    assert verify_bundle(path, read_adapters([adapters["a"]])).ok
    assert [x.tasks for x in inspect_bundle(path).modules] == [1, 1, 1, 1, 0]
    shrink(path, tmp_path / "small", error=0.3)
    assert len(open_bundle(tmp_path / "small").manifest.modules) == 4
    refresh(path, adapters=[adapters["a"]])
    assert len(open_bundle(path).manifest.modules) == 4
    assert len(open_bundle(path).manifest.tensors) == 0


def test_a_size_of_a_folder_is_that_of_its_files(merged: Path, tmp_path: Path) -> None:
    """A core and task files take more bytes than one file of the same tasks."""
    split(merged, tmp_path / "folder")
    limit = open_bundle(tmp_path / "folder").size - 200
    done = refresh(tmp_path / "folder", size=limit)
    there = sum(file.stat().st_size for file in (tmp_path / "folder").iterdir())
    assert 0.9 * limit < there <= limit
    # What is said of a collection leaves its index out.
    assert sum(map(len, state(tmp_path / "folder").values())) == done.size < there
    join([tmp_path / "folder"], tmp_path / "joined")
    assert (tmp_path / "joined").stat().st_size < done.size - 200


def test_a_folder_here_needs_no_room_elsewhere(
    merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split(merged, tmp_path / "folder")
    (tmp_path / "full").write_text("no folder, so nothing can be written there")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
    refresh(tmp_path / "folder", error=0.3)
    assert list(open_bundle(tmp_path / "folder")) == list(open_bundle(merged))


def test_what_is_carried_in_a_folder_counts_as_its_files(
    adapters: dict[str, Path], tmp_path: Path
) -> None:
    merge([adapters[name] for name in "abc"], f"{tmp_path}/whole/", lossless=True)
    there = sum(file.stat().st_size for file in (tmp_path / "whole").iterdir())
    refresh(tmp_path / "whole", size=there + 500)
    before = state(tmp_path / "whole")
    with raises(BudgetError, got="--exact"):
        refresh(tmp_path / "whole", size=there - 200)
    assert state(tmp_path / "whole") == before


def test_what_does_not_fit_is_refused(
    four: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    add(four, [adapters["e"]], day=DAY)
    before = state(four)
    with raises(TaskNotFoundError, got="'f'"):
        refresh(four, adapters=[adapters["f"]])
    with raises(UsageError, adapter="e", file="adapter_model.safetensors"):
        refresh(four, adapters=[f"e={adapters['c']}"])
    with raises(UsageError, adapter="a", file="adapter_model.safetensors"):
        refresh(four, adapters=[f"a={adapters['b']}"])
    with raises(UsageError, got="size, error"):
        refresh(four, size="5%", error=0.1)
    with pytest.raises(UsageError):
        refresh(four, four)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    wrong = tmp_path / "file" if four.is_dir() else tmp_path / "folder"
    with pytest.raises(UsageError):
        refresh(four, wrong)
    if four.is_file():
        with raises(UsageError, file="new"):
            refresh(four, f"{tmp_path}/new/")
        with raises(UsageError, file="out"):
            refresh(four, tmp_path / "none" / "out")
    assert state(four) == before
    other = copied(four, tmp_path / "other")
    remove(other, list("abcde"))
    with pytest.raises(UsageError):
        refresh(other)


def test_an_original_has_the_modules_and_tensors_of_its_task(
    merged: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    pairs = {path: x.factors() for path, x in read_adapter(adapters["a"]).modules.items()}
    other = {f"h.9{path[3:]}": x for path, x in pairs.items()}
    wider = {path: (np.vstack([b, b]), a) for path, (b, a) in pairs.items()}
    for number, modules in enumerate((other, wider)):
        made = write_adapter(tmp_path / str(number), modules)
        with raises(UsageError, adapter="a", file="adapter_model.safetensors"):
            refresh(merged, tmp_path / "out", adapters=[f"a={made}"])
    with raises(UsageError, adapter="b", file="adapter_model.safetensors"):
        refresh(merged, tmp_path / "out", adapters=[f"b={adapters['d']}"])


def test_originals_of_a_lossless_collection_have_its_bytes(
    adapters: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "exact.hydra.safetensors"
    merge([adapters[name] for name in "ab"], path, lossless=True)
    with raises(
        UsageError,
        adapter="a",
        file="adapter_model.safetensors",
        got="other bytes",
        expected="the same",
    ):
        refresh(path, adapters=[f"a={adapters['c']}"])
    refresh(path, adapters=[adapters["a"]])


@pytest.mark.slow
def test_force_replaces_another_collection(four: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "apart", tmp_path / "out"
    split(four, folder)
    refresh(folder, out, error=0.3)
    remove(folder, ["a"])
    before = state(out)
    with raises(UsageError, file="a.task.safetensors"):
        refresh(folder, out, error=0.3)
    assert state(out) == before
    refresh(folder, out, error=0.3, force=True)
    assert list(open_bundle(out)) == ["b", "c", "d"]
