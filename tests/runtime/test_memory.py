"""What an attached bundle holds in memory: the core once, and heads within a limit."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from hydraopt import attach, merge, open_bundle
from hydraopt.errors import UsageError
from hydraopt.serve.attached import default_cache_bytes
from tests.conftest import write_adapter
from tests.marks import slow
from tests.raising import raises
from tests.runtime.conftest import FORM_NAMES, IDS, TASKS, Q, adapters, close, expected, logits

pytestmark = [
    # What torch, transformers and PEFT deprecate is not ours to answer for.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def test_the_core_is_decoded_once_and_kept_once(model, bundle_of, monkeypatch) -> None:
    bundle = open_bundle(bundle_of("two-sided"))
    reads: list[str] = []
    read = type(bundle).read

    def counted(self: Any, name: str, contents: Any = None) -> bytes:
        reads.append(name)
        return read(self, name, contents)

    monkeypatch.setattr(type(bundle), "read", counted)
    with attach(model, bundle) as attached:
        assert reads == ["shared"]
        for name in ("de", "fr", "de"):
            attached.set_task(name)
        assert reads == ["shared", "task/0", "task/3"]
        assert "_bases" not in vars(bundle)  # the bundle has no copy of its own
        count = sum(x.vectors.size for pair in bundle.read_bases() for x in pair if x is not None)
        assert attached.memory().shared == 4 * count
        assert attached.stats.bytes_read == bundle.bytes_read


def test_heads_stay_within_the_limit(model, bundle_of) -> None:
    path = bundle_of("shared-input")
    with attach(model, path) as attached:
        sizes = {}
        for name in TASKS:
            before = attached.memory().cached
            attached.set_task(name)
            sizes[name] = attached.memory().cached - before
            assert sizes[name] > 0
        assert (attached.stats.decodes, attached.stats.hits) == (4, 0)
        assert attached.memory().limit == 4 << 20  # four small adapters: the least
    right = {name: expected(model, path, name) for name in TASKS}
    limit = max(sizes.values()) + min(sizes.values())  # two fit, or three if they are small
    for cache_bytes, decodes in ((limit, None), (min(sizes.values()) - 1, 12), (0, 12)):
        with attach(model, path, cache_bytes=cache_bytes) as attached:
            for name in TASKS * 3:
                attached.set_task(name)
                memory = attached.memory()
                assert memory.cached <= memory.limit == cache_bytes
                assert memory.active == (0 if memory.cached else sizes[name])
                assert close(logits(model), right[name])
                attached.set_task(name)  # what is selected is never decoded again
            assert attached.stats.hits >= 12
            assert decodes is None or attached.stats.decodes == decodes
            assert attached.stats.switch_seconds > 0


def over_bases(attached, path: str) -> tuple[bool, bool]:
    """Has the task's left, and its right side in a module coordinates in a basis?"""
    (head,) = attached._chosen.heads.values()
    return head[path].z is not None, head[path].y is not None


@pytest.mark.parametrize("form", [x if x == "two-sided" else slow(x) for x in FORM_NAMES])
def test_a_task_that_is_used_takes_what_its_adapter_does(model, bundle_of, form) -> None:
    """Its bases are multiplied out, once more tokens have come than the task has components."""
    path = bundle_of(form)
    bundle = open_bundle(path)
    short = IDS[:1, :2]  # fewer tokens than components
    right = {name: [expected(model, path, name, ids) for ids in (short, IDS)] for name in TASKS}
    with attach(model, path) as attached:
        for name in TASKS:
            attached.set_task(name)
            assert close(logits(model, short), right[name][0])
            assert attached.memory().active == 0
            model(IDS)  # gradients may flow: a backward pass must find what the first pass used
            assert attached.memory().active == 0
            assert close(logits(model), right[name][1])
            # A side without a basis is the head's own, which is counted there.
            sides = [
                (x.B.size if left else 0) + (x.A.size if right else 0)
                for path, x in bundle[name].factors().items()
                for left, right in [over_bases(attached, path)]
            ]
            assert attached.memory().active == 4 * sum(sides)
            # These adapters have no known start, so "started" is private.
            assert (attached.memory().active == 0) == (form in ("private", "started"))
            assert close(logits(model, short), right[name][0])
        attached.set_task(TASKS[0])
        assert attached.memory().active == 0


def test_the_least_recently_used_head_goes_first(model, bundle_of) -> None:
    path = bundle_of("private")
    with attach(model, path) as attached:
        for name in TASKS:
            attached.set_task(name)
        total = attached.memory().cached
    with attach(model, path, cache_bytes=total - 1) as attached:
        for name in ("de", "en", "es", "de", "fr"):  # fr drops en, which was not used since
            attached.set_task(name)
        decodes = attached.stats.decodes
        attached.set_task("de")
        assert attached.stats.decodes == decodes
        attached.set_task("en")
        assert attached.stats.decodes == decodes + 1
    with raises(UsageError, got=-1, expected=">= 0"):
        attach(model, path, cache_bytes=-1)


def test_forty_tasks_take_at_most_a_third_of_forty_adapters(model, tmp_path, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4, 32))
    sources = [
        write_adapter(tmp_path / f"t{i}", {Q: (0.1 * rng.standard_normal((32, 4)), a)})
        for i in range(40)
    ]
    merge(sources, tmp_path / "b", error=0.2, workers=1)
    # The least is for sets that a test would take long to make.
    monkeypatch.setattr("hydraopt.serve.attached.LEAST_CACHE_BYTES", 0)
    for dtype in (torch.float32, torch.bfloat16):
        each = dtype.itemsize * 4 * (32 + 32)
        with attach(copy.deepcopy(model).to(dtype), tmp_path / "b") as attached:
            core = attached.memory().shared
            assert core > 0
            assert attached.memory().limit == 40 * each // 4 - core
            for name in attached.tasks:
                attached.set_task(name)
            memory = attached.memory()
            assert memory.shared + memory.cached + memory.active <= 40 * each / 4
            assert attached.stats.decodes == 40
            attached.set_task(attached.tasks[-2])
            assert attached.stats.hits == 1


def test_the_default_cache_is_a_quarter_of_the_adapters_within_limits() -> None:
    mib = 1 << 20
    assert [default_cache_bytes(x * mib, 0) for x in (0, 16, 100, 1024, 9999)] == [
        4 * mib, 4 * mib, 25 * mib, 256 * mib, 256 * mib
    ]  # fmt: skip
    assert [default_cache_bytes(100 * mib, x * mib) for x in (5, 9, 50)] == [
        20 * mib,
        16 * mib,
        4 * mib,
    ]


def test_the_default_cache_of_what_is_not_coded(model, tmp_path, monkeypatch) -> None:
    # A bundle of lossless tasks alone names no modules, so the model says the type.
    monkeypatch.setattr("hydraopt.serve.attached.LEAST_CACHE_BYTES", 0)
    merge(adapters(tmp_path / "a"), tmp_path / "b", lossless=True)
    numbers = sum(task.numbers for task in open_bundle(tmp_path / "b").manifest.tasks)
    for dtype in (torch.float32, torch.bfloat16):
        with attach(copy.deepcopy(model).to(dtype), tmp_path / "b") as attached:
            assert attached.memory().limit == dtype.itemsize * numbers // 4


def test_tasks_of_equal_content_have_one_head(model, tmp_path) -> None:
    one, two = adapters(tmp_path / "a")[:2]
    merge([f"x={one}", f"y={one}", f"z={two}"], tmp_path / "b", error=0.05, workers=1)
    with attach(model, tmp_path / "b") as attached:
        attached.set_task("x")
        first = logits(model)
        attached.set_task("y")
        assert torch.equal(logits(model), first)
        assert (attached.stats.decodes, attached.stats.hits) == (1, 1)
        attached.set_task("z")
        assert not torch.equal(logits(model), first)
