"""What is checked before harm is measured, and what is counted of it afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydraopt import merge
from hydraopt.errors import HydraoptError
from hydraopt.merging import finish
from hydraopt.merging.look import Look
from tests.harm.power_judge import SCALES, PowerJudge


def test_what_is_wrong_is_told_before_anything_is_measured(adapters, tmp_path: Path) -> None:
    judge, looked = PowerJudge(adapters, SCALES), []

    def look() -> dict[str, dict[str, float]]:
        looked.append(0)
        return {}

    for wrong in (
        {"size": "3O%"},
        {"size": "30%", "forms": ["privat"]},
        {"size": "30%", "importance": {"heasy": 2.0}},
        {"size": "30%", "importance": {"easy": -2.0}},
        {"harm": "2%", "importance": {"easy": 2.0}},
        {"size": "30%", "base": tmp_path / "nothing"},
    ):
        with pytest.raises(HydraoptError):
            merge(adapters, tmp_path / "x", look=Look(judge=judge, sensitivity=look), **wrong)
    assert (judge.asked, looked) == (0, [])
    merge(adapters, tmp_path / "x", size="30%", look=Look(sensitivity=look))
    assert looked == [0]


def test_a_refit_leaves_room_for_what_is_told_of_harm(adapters, tmp_path, monkeypatch) -> None:
    counted, real = [], finish.refitted

    def refitted(before, pieces, originals, refitter, budget, value):
        made = real(before, pieces, originals, refitter, budget, value)
        counted.append(value(made.draft, made.tasks))
        return made

    monkeypatch.setattr(finish, "refitted", refitted)
    judge = PowerJudge(adapters, SCALES)
    same = lambda name, modules: {p: x.record for p, x in modules().items()}  # noqa: E731
    made = merge(adapters, tmp_path / "x", size="30%", look=Look(judge=judge, refit=same))
    assert counted == [pytest.approx(made.size, abs=12)]  # three tasks; 46 without
