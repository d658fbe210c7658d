"""One attachment in several threads: right rows or an error, never another thread's tasks."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from hydraopt import attach
from hydraopt.errors import UsageError
from tests.raising import raises
from tests.runtime.conftest import IDS, TASKS

ROUNDS, MEETINGS = 60, 6


@pytest.fixture
def alone(model: Any, bundle_of: Any) -> dict[str | None, torch.Tensor]:
    """Logits of each task and of the base, computed one after the other."""
    found = {}
    with attach(model, bundle_of("all")) as attached, torch.inference_mode():
        for name in (None, *TASKS):
            attached.set_task(name)
            found[name] = model(IDS).logits
    return found


@pytest.fixture
def by_turns() -> Iterator[None]:
    """Threads take turns often, so that they meet on one core as well."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("by_turns")
def test_threads_that_select_get_their_own_rows_or_an_error(model, bundle_of, alone) -> None:
    outcomes: list[str] = []
    barrier = threading.Barrier(2)

    def work(names: tuple[str | None, ...]) -> None:
        for i in range(ROUNDS):
            # Left alone, a fast thread may be done before the other begins; in every sixth round
            # both have selected before either computes, so exactly one is refused.
            meet = barrier.wait if i % MEETINGS == 0 else lambda _seconds: None
            name = names[i % len(names)]
            barrier.wait(60)
            with attached.task(name), torch.inference_mode():
                meet(60)
                outcomes.append(outcome(name))
                meet(60)

    def outcome(name: str | None) -> str:
        try:
            logits = model(IDS).logits
        except UsageError as error:
            return "another thread has selected" if "another thread" in str(error) else "?"
        return "right" if torch.allclose(logits, alone[name], atol=1e-4) else "wrong"

    with attach(model, bundle_of("all"), cache_bytes=20_000) as attached:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(work, [("de", "en", None), ("fr", "es")]))
        memory = attached.memory()
        assert memory.cached <= memory.limit
    kinds = Counter(outcomes)
    assert set(kinds) <= {"right", "another thread has selected"}
    assert kinds["another thread has selected"] >= ROUNDS // MEETINGS
    assert kinds["right"] >= ROUNDS // MEETINGS
    assert len(outcomes) == 2 * ROUNDS


def test_a_selection_that_was_replaced_is_an_error(model, bundle_of, alone) -> None:
    with attach(model, bundle_of("all")) as attached, ThreadPoolExecutor(1) as other:
        attached.set_task("de")
        other.submit(attached.set_task, "en").result()
        with raises(UsageError, got="'en'", expected="'de'"):
            model(IDS)
        attached.disable()
        assert torch.allclose(model(IDS).logits, alone[None], atol=1e-4)
        attached.enable()
        attached.set_task("de")
        assert torch.allclose(model(IDS).logits, alone["de"], atol=1e-4)
        # The same task in both threads is no difference.
        other.submit(attached.set_task, "de").result()
        assert torch.allclose(model(IDS).logits, alone["de"], atol=1e-4)


def test_a_thread_that_selects_nothing_follows(model, bundle_of, alone) -> None:
    """As transformers' streamers have it: the answer is written in a thread of its own."""
    with attach(model, bundle_of("all")) as attached, ThreadPoolExecutor(1) as other:
        for name in ("de", "fr", None):
            attached.set_task(name)
            assert torch.allclose(other.submit(model, IDS).result().logits, alone[name], atol=1e-4)
        with attached.task("es"):
            logits = other.submit(model, IDS).result().logits
        assert torch.allclose(logits, alone["es"], atol=1e-4)
