"""What a use of a bundle is said to take, held against the file and the tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.speed import separate, use
from benchmarks.speed.frame import frame_of
from benchmarks.speed.use import measure_use
from hydraopt import attach, merge, open_bundle
from hydraopt.collection.splitting import split
from hydraopt.errors import UsageError
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


def test_the_frame_has_every_linear_module(bundle_of) -> None:
    for form in ("all", "lossless"):
        bundle = open_bundle(bundle_of(form))
        modules = dict(frame_of(bundle).named_modules())
        for task in bundle.values():
            for name, entry in task.modules.items():
                assert (modules[name].out_features, modules[name].in_features) == (entry.m, entry.n)
