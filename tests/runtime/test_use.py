"""What a use of a bundle is said to take, held against the file and the tensors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from benchmarks.speed import footprint, separate, use
from benchmarks.speed.frame import frame_of
from benchmarks.speed.use import measure_use
from hydraopt import attach, merge, open_bundle
from hydraopt.collection.splitting import split
from hydraopt.errors import ChecksumError, TaskNotFoundError, UsageError
from tests.conftest import write_adapter
from tests.raising import raises
from tests.runtime.conftest import TASKS, adapters, hooks_of

# Each starts processes that load torch anew; tests/cli has one that is quick.
pytestmark = pytest.mark.slow


STEPS = [
    ("open", "cold"),
    ("open", "warm"),
    ("decode the task", "cold"),
    ("decode the task", "warm"),
    ("attach", "cold"),
    ("attach", "warm"),
    ("switch, not yet decoded", "cold"),
    ("switch, not yet decoded", "warm"),
    ("switch, decoded before", "warm"),
]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison in this process: two processes for each count take seconds to start."""
    monkeypatch.setattr(separate, "in_fresh_process", separate.with_threads)


def steps_of(report: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(x["what"], x["file"]): x for x in report["steps"]}


@pytest.mark.parametrize("form", ["two-sided", "private", "lossless"])
def test_bytes_are_those_of_the_file(model, bundle_of, here, form) -> None:
    path = bundle_of(form)
    bundle = open_bundle(path)
    sizes, opening = bundle.tensor_bytes, bundle.bytes_read
    report = measure_use(path, "en", model=model, repeats=2)
    steps = steps_of(report)
    assert list(steps) == STEPS
    assert (report["task"], report["other"]) == ("en", "de")
    with attach(model, path) as attached:
        before = attached.stats.bytes_read
        attached.set_task("de")
        switch = attached.stats.bytes_read - before
    for file in ("cold", "warm"):
        assert steps["open", file]["bytes_read"] == opening
        assert steps["attach", file]["bytes_read"] == before - opening
        assert steps["switch, not yet decoded", file]["bytes_read"] == switch > 0
    if form != "lossless":
        task = sizes[f"task/{bundle['en'].entry.content}"]
        shared = sizes["shared"]
        assert steps["decode the task", "cold"]["bytes_read"] == shared + task
        assert before - opening == shared
    assert steps["switch, decoded before", "warm"]["bytes_read"] == 0
    assert all(x["seconds"] > 0 for x in report["steps"])
    assert hooks_of(model) == 0


def test_what_is_held_is_what_is_attached(model, bundle_of, here) -> None:
    path = bundle_of("shared-input")
    report = measure_use(path, "de", model=model, repeats=1)
    with attach(model, path) as attached:
        attached.set_task("de")
        memory = attached.memory()
    assert report["held"]["shared_bytes"] == memory.shared > 0
    assert report["held"]["task_bytes"] == memory.cached > 0
    # Without the base the same is decoded, for modules of the same sizes.
    alone = measure_use(path, "de", repeats=1)
    assert alone["held"] == report["held"]
    assert list(steps_of(alone)) == [x for x in STEPS if x[0] != "attach"]
    assert any("no base model" in note for note in alone["notes"])
    assert not any("no base model" in note for note in report["notes"])
    half = measure_use(path, "de", dtype="bfloat16", repeats=1)
    assert half["dtype"] == "bfloat16"
    assert {2 * half["held"][key] == x for key, x in alone["held"].items()} == {True}


def test_a_bundle_in_several_files_is_refused(bundle_of, tmp_path) -> None:
    split(bundle_of("all"), tmp_path / "apart")
    (core,) = (tmp_path / "apart").glob("*.core.safetensors")
    for path in (tmp_path / "apart", core):
        with raises(UsageError, do="hydraopt join"):
            measure_use(path)


def test_tasks_against_files_of_their_own(bundle_of, here, monkeypatch) -> None:
    monkeypatch.setattr(use, "COUNTS", (1, 3))
    path = bundle_of("all")
    bundle = open_bundle(path)
    rows = measure_use(path, repeats=1)["comparison"]
    ways = ("bundle", "files")
    assert [(x["tasks"], x["way"]) for x in rows] == [(n, way) for n in (1, 3, 4) for way in ways]
    for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
        names = TASKS[: ours["tasks"]]
        numbers = sum(bundle[name].entry.numbers for name in names)
        assert (ours["files"], theirs["files"]) == (1, len(names))
        assert theirs["held_bytes"] == 4 * numbers
        header = theirs["file_bytes"] - 2 * numbers
        assert 0 < header < 1500 * len(names)
        assert theirs["read_bytes"] == theirs["file_bytes"]
        assert ours["file_bytes"] == bundle.size
        assert ours["warm_seconds"] > 0
        assert theirs["warm_seconds"] is None
    # All tasks take all of the file that is not kept for something else.
    assert rows[-2]["read_bytes"] == bundle.size
    assert rows[0]["read_bytes"] < rows[2]["read_bytes"] < bundle.size


@pytest.mark.slow
def test_each_way_has_a_process_of_its_own(bundle_of) -> None:
    counts: Any = ([1], torch.float32)
    rows = separate.compare(bundle_of("all"), TASKS, *counts)
    assert [x["way"] for x in rows] == ["bundle", "files"]
    apart = [separate.in_fresh_process(_process, 1) for _ in range(2)]
    assert len({os.getpid(), *(x["pid"] for x in apart)}) == 3


def _process() -> dict[str, Any]:
    return {"pid": os.getpid()}


def test_a_file_like_the_original_has_its_numbers(bundle_of, tmp_path) -> None:
    for name, task in open_bundle(bundle_of("all")).items():
        with safe_open(separate.write_like(task, tmp_path / name), "pt") as file:
            tensors = [file.get_tensor(key) for key in file.keys()]  # noqa: SIM118
        assert sum(x.numel() for x in tensors) == task.entry.numbers
        assert {x.dtype for x in tensors} == {torch.float16}


def test_one_task_is_switched_to_from_the_base(tmp_path, here) -> None:
    merge(adapters(tmp_path / "a")[:1], tmp_path / "b", size="60%", workers=1)
    report = measure_use(tmp_path / "b", repeats=1)
    assert (report["task"], report["other"]) == ("de", None)
    assert report["held"]["other_bytes"] == 0
    assert steps_of(report)["switch, not yet decoded", "cold"]["bytes_read"] > 0
    assert [x["tasks"] for x in report["comparison"]] == [1, 1]


def test_tasks_that_cannot_be_attached_are_left_out(tmp_path, here) -> None:
    rng = np.random.default_rng(0)
    q = "model.layers.0.self_attn.q_proj"
    pair = {q: (rng.standard_normal((32, 2)), rng.standard_normal((2, 32)))}
    head = {"base_model.model.lm_head.weight": rng.standard_normal((9, 32)).astype(np.float32)}
    odd = write_adapter(tmp_path / "odd", pair, extras=head, modules_to_save=["lm_head"])
    merge([odd, *adapters(tmp_path / "a")[:2]], tmp_path / "b", error=0.3, workers=1)
    report = measure_use(tmp_path / "b", repeats=1)
    assert (report["task"], report["other"], report["tasks"]) == ("de", "en", 3)
    assert "1 task cannot be attached and is not in the comparison" in report["notes"]
    with raises(UsageError, expected="de, en"):
        measure_use(tmp_path / "b", "odd")
    merge([odd], tmp_path / "b", error=0.3, workers=1)
    with raises(UsageError, file="b"):
        measure_use(tmp_path / "b")


def test_errors_are_typed(bundle_of, tmp_path) -> None:
    with pytest.raises(TaskNotFoundError):
        measure_use(bundle_of("all"), "nl")
    damaged = bytearray(bundle_of("private").read_bytes())
    damaged[-5] ^= 1
    (tmp_path / "b").write_bytes(damaged)
    with pytest.raises(ChecksumError):
        measure_use(tmp_path / "b", "fr")


def test_the_frame_has_every_linear_module(bundle_of) -> None:
    for form in ("all", "lossless"):
        bundle = open_bundle(bundle_of(form))
        modules = dict(frame_of(bundle).named_modules())
        for task in bundle.values():
            for name, entry in task.modules.items():
                assert (modules[name].out_features, modules[name].in_features) == (entry.m, entry.n)


def test_the_system_is_asked(tmp_path, monkeypatch) -> None:
    asked: list[tuple[int, ...]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *x: asked.append(x), raising=False)
    monkeypatch.setattr(os, "POSIX_FADV_DONTNEED", 4, raising=False)
    path = tmp_path / "x"
    path.write_bytes(b"x")
    assert footprint.forget(path)
    assert [x[1:] for x in asked] == [(0, 0, 4)]
    monkeypatch.delattr(os, "posix_fadvise")
    assert not footprint.forget(path)


def test_where_the_system_tells_nothing(bundle_of, here, monkeypatch) -> None:
    monkeypatch.setattr(footprint, "PROCESSES", Path("/nowhere"))
    report = measure_use(bundle_of("all"), repeats=1)
    assert {x["disk_bytes"] for x in report["steps"]} == {None}
    assert {x["peak_bytes"] for x in (*report["steps"], *report["comparison"])} == {None}
    assert any("it does not tell" in note for note in report["notes"])
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    report = measure_use(bundle_of("all"), repeats=1)
    assert any("cannot be asked to drop" in note for note in report["notes"])


@pytest.mark.skipif(footprint.start_peak() is None, reason="the system does not tell")
def test_a_peak_is_seen_after_it_is_gone() -> None:
    before = footprint.start_peak()
    block = np.ones(32 << 20, np.uint8)
    del block
    assert footprint.growth(before, footprint.peak_bytes()) > 24 << 20
    again = footprint.start_peak()
    assert footprint.growth(again, footprint.peak_bytes()) < 8 << 20
