"""What a result says of the machine, on any system."""

from __future__ import annotations

import os

from hydraopt.evaluate.compare import EvaluationRequest, evaluate
from hydraopt.evaluate.compared import Compared


def test_cores_are_told_where_the_system_binds_no_process_to_some(monkeypatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    result = evaluate(Compared({}, {}), EvaluationRequest("some/base", None))
    assert result.hardware.cores == 7
