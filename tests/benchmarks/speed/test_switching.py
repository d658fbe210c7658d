"""Bytes that warm switches read are counted, not taken for none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

runtime = pytest.importorskip("benchmarks.speed.runtime")


class _Attached:
    """Reads so many bytes of the file at every switch, used before or not."""

    tasks = ("a", "b", "c")

    def __init__(self, warm: int) -> None:
        self.stats = SimpleNamespace(bytes_read=7, switch_seconds=0.001)
        self._warm, self._used = warm, set[str]()

    def set_task(self, name: str) -> None:
        self.stats.bytes_read += self._warm if name in self._used else 100
        self._used.add(name)


@pytest.mark.parametrize("warm", [0, 3])
def test_bytes_of_warm_switches_are_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, warm: int
) -> None:
    @contextmanager
    def attach(*_: Any) -> Iterator[_Attached]:
        yield _Attached(warm)

    monkeypatch.setattr(runtime, "attach", attach)
    monkeypatch.setattr(runtime, "forget", lambda path: None)
    row = runtime.switching(None, tmp_path, 5)
    assert (row["bytes_read"], row["bytes_read_warm"]) == (100, 10 * warm)
    assert (row["cold_ms"], row["warm_ms"]) == (1.0, 1.0)
