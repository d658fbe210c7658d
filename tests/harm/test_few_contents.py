"""Tasks of equal content under a limit on harm, and tasks of which nothing is coded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hydraopt import merge, read_adapters
from hydraopt.bundle.harm import Harm
from hydraopt.errors import BudgetError
from hydraopt.merging.align import align, coded_of
from hydraopt.merging.look import Look, MeasuredHarm
from hydraopt.merging.options import coded_names
from hydraopt.merging.weights import importances
from tests.harm.power_judge import SCALES, THREE_LAYERS, PowerJudge
from tests.raising import raises


@pytest.mark.slow
def test_the_task_that_breaks_a_limit_is_named_among_equal_contents(
    adapters, make_adapter, tmp_path: Path
) -> None:
    first = next(x for x in adapters if x.name == "fair")
    modules = {path: module.factors() for path, module in first.modules.items()}
    every = read_adapters([make_adapter(tmp_path / "in" / name, modules) for name in "abc"])

    class Stubborn(PowerJudge):
        def measure(self, task, coded, apart=False) -> MeasuredHarm:
            likely = {"a": 0.001, "b": 0.05, "c": 0.02}[task]
            return MeasuredHarm(Harm(0, 64, likely, likely**2, True), 0.0)

    judge = Stubborn(every, dict.fromkeys("abc", 0.3))
    with raises(BudgetError, adapter="b"):
        merge(every, tmp_path / "x", harm="1%", look=Look(judge=judge), workers=1)


def test_weights_of_equal_contents_are_summed(make_adapter, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    same, other = ({THREE_LAYERS[0]: (rng.random((8, 2)), rng.random((2, 8)))} for _ in range(2))
    rows = (("a", same), ("b", same), ("c", other))
    pieces = align(
        read_adapters([make_adapter(tmp_path / x, y) for x, y in rows]), None, lossless=False
    )
    for given, summed in (({}, [1, 2]), ({"b": 3.0}, [1, 4])):
        assert sorted(importances(pieces, given)) == summed


def test_a_task_of_which_nothing_is_coded_needs_no_prompts(adapters) -> None:
    pieces = align(adapters, None, lossless=True)
    assert list(coded_names(pieces)) == []
    assert sorted(coded_names(align(adapters, None, lossless=False))) == sorted(SCALES)
    assert sorted(coded_of([replace(adapters[0], modules={}), *adapters[1:]])) == sorted(
        x.name for x in adapters[1:]
    )
