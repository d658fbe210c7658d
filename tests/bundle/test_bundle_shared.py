"""The shared stream, decoded by several threads: the same as by one, whole or damaged."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import bundles
import numpy as np
import pytest

from hydraopt.bundle import Bundle, open_bundle, payload as shared
from hydraopt.codec import ChunkReader, ChunkWriter
from hydraopt.errors import BundleFormatError

MODULES = 7


@pytest.fixture(params=[2, 3, 16])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """So many threads, however short the stream."""
    count: int = request.param
    monkeypatch.setattr(shared, "WORTH", 0)
    monkeypatch.setattr(shared, "MOST_THREADS", count)
    monkeypatch.setattr(shared, "cores", lambda: count)
    return count


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """Whose shared stream has a chunk for each module."""
    monkeypatch.setattr(bundles, "ChunkWriter", partial(ChunkWriter, 0))
    path = tmp_path / "many.hydra.safetensors"
    bundles.tiny(modules=bundles.tiny_modules(MODULES)).write(path)
    opened = open_bundle(path)
    reader = opened._open_shared()
    assert isinstance(reader, ChunkReader)
    assert [records for records, _ in reader.apart()] == [1] * MODULES
    return opened


def same(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return bool(np.array_equal(one.vectors, other.vectors))


def test_bases_do_not_depend_on_threads(
    bundle: Bundle, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    work = shared.at_once
    monkeypatch.setattr(shared, "at_once", lambda *given: seen.append(given[1]) or work(*given))
    expected = list(bundle.read_bases())
    assert any(x is not None for pair in expected for x in pair)
    got = [bundle.bases(i) for i in range(MODULES)]
    assert seen == [threads]
    for pair, other in zip(expected, got, strict=True):
        assert all(same(*x) for x in zip(pair, other, strict=True))


def refusal(read: Callable[[ChunkReader], object], data: bytearray) -> str:
    """What is said of a stream, by its first chunk or by the function."""
    with pytest.raises(BundleFormatError) as refused:
        read(ChunkReader(bytes(data), MODULES))
    return str(refused.value)


def test_damage_is_told_alike(bundle: Bundle, threads: int) -> None:
    data = bytearray(bundle.read("shared"))
    pieces, modules = ChunkReader(bytes(data), MODULES), bundle.manifest.modules
    for place in range(pieces._start, len(data), 5):
        damaged = bytearray(data)
        damaged[place] ^= 1
        one = refusal(lambda reader: list(shared.each_bases(reader, modules)), damaged)
        several = refusal(lambda r: shared.read_shared(r, bundle.manifest, bundle.path), damaged)
        assert one in several


def test_records_must_be_those_of_the_table(bundle: Bundle, threads: int) -> None:
    """A chunk that holds more records than the table says would be read as the next chunk's."""
    modules = bundle.manifest.modules
    one = ChunkReader(bundle.read("shared"), MODULES)
    pieces = list(one.apart())
    list(shared.each_bases(pieces[0][1], modules[:1]))
    with pytest.raises(BundleFormatError):
        list(shared.each_bases(pieces[0][1], modules[1:2]))


def test_results_are_in_order_and_the_first_failure_is_raised() -> None:
    def job(i: int) -> int:
        time.sleep(0.001 * (7 - i))
        if i in (3, 5):
            raise ValueError(i)
        return i

    assert shared.at_once([partial(job, i) for i in range(3)], 3) == [0, 1, 2]
    for _ in range(20):
        with pytest.raises(ValueError, match="3"):
            shared.at_once([partial(job, i) for i in range(7)], 4)


def test_one_thread_will_do_where_no_more_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    assert shared.at_once([lambda: 1, lambda: 2], 2) == [1, 2]


def test_an_interrupt_while_they_are_decoded_leaves_the_bundle_whole(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hydraopt.bundle.task.read_shared", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bundle.bases(0)
    assert all(same(*x) for x in zip(bundle.bases(0), next(iter(bundle.read_bases())), strict=True))
