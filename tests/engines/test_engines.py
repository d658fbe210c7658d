"""Engines of one machine, and Ray where it is not installed."""

from __future__ import annotations

import sys

import pytest

from hydraopt.errors import MissingExtraError
from hydraopt.merging import Local, OnRay
from hydraopt.merging.pool import SerialPool


def test_one_local_worker_is_this_process() -> None:
    assert isinstance(Local(1).pool(1, lambda: None), SerialPool)
    assert Local(None).most() >= 1
    assert Local(5).most() == 5


def test_windows_has_this_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hydraopt.merging.workers.os.name", "nt")
    most = Local(5).most()
    monkeypatch.undo()  # before pytest itself asks
    assert most == 1


def test_without_ray_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError):
        OnRay().most()
