"""One content has all of a size; of equal contents the fewest answers are believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hydraopt import merge, open_bundle, read_adapters
from hydraopt.bundle.harm import Harm
from hydraopt.errors import BudgetError
from hydraopt.merging.align import align, coded_of
from hydraopt.merging.look import Look, MeasuredHarm
from hydraopt.merging.options import coded_names
from hydraopt.merging.weights import importances
from tests.harm.power_judge import PATHS, SCALES, PowerJudge
from tests.raising import raises


def test_one_content_is_not_shared_out(adapters, tmp_path: Path) -> None:
    """Its curve and its size, once: five trials, the base alone, and what was chosen."""
    alone = [adapter for adapter in adapters if adapter.name == "hard"]
    judge, told = PowerJudge(alone, {"hard": 0.6}), []
    said = lambda stage, done, total: told.append((done, total))  # noqa: E731
    merge(alone, tmp_path / "x", size="30%", look=Look(judge=judge), workers=1)
    assert judge.asked == 7
    bundle = open_bundle(tmp_path / "x")
    assert bundle.size <= 0.3 * sum(2 * x.numbers for x in alone)
    assert 3 < len(bundle["hard"].entry.curve) <= 5
    merge(alone, tmp_path / "x", size="30%", look=Look(judge=judge), workers=1, progress=said)
    measured = [x for x in told if x[1] == 5]
    assert measured[-1] == (5, 5)


class Twins(PowerJudge):
    """Harm of fewer answers for some."""

    def __init__(self, adapters, counts: Mapping[str, int]) -> None:
        super().__init__(adapters, dict.fromkeys(counts, 0.3) | {"hard": 0.6})
        self.counts = counts

    def measure(self, task, coded, error, apart=False) -> MeasuredHarm:
        told = super().measure(task, coded, error)
        count = self.counts.get(task, self.answers)
        likely = told.harm.likely
        harm = Harm(round(count * likely), count, likely, told.harm.kl, True)
        return MeasuredHarm(harm, told.likely_error, 0.0, likely)


@pytest.mark.parametrize("counts", [(8, 256), (256, 8)])
def test_the_fewest_answers_of_equal_contents_count(
    adapters, make_adapter, tmp_path: Path, monkeypatch, counts: tuple[int, int]
) -> None:
    first = next(x for x in adapters if x.name == "fair")
    modules = {path: module.factors() for path, module in first.modules.items()}
    folders = [make_adapter(tmp_path / "in" / name, modules) for name in ("a", "b")]
    others = [x.source.parent for x in adapters if x.name == "hard"]
    every = read_adapters([*folders, *others])
    seen: list[int] = []
    monkeypatch.setattr(
        "hydraopt.harm.solve.part_of_the_way",
        lambda curves, chosen, plain, answers, coded: seen.extend(answers) or chosen,
    )
    judge = Twins(every, dict(zip("ab", counts, strict=True)))
    merge(every, tmp_path / "x", size="30%", look=Look(judge=judge), workers=1)
    assert set(seen) == {8, PowerJudge(every, SCALES).answers}


def test_the_task_that_breaks_a_limit_is_named_among_equal_contents(
    adapters, make_adapter, tmp_path: Path
) -> None:
    first = next(x for x in adapters if x.name == "fair")
    modules = {path: module.factors() for path, module in first.modules.items()}
    every = read_adapters([make_adapter(tmp_path / "in" / name, modules) for name in "abc"])

    class Stubborn(Twins):
        def measure(self, task, coded, error, apart=False) -> MeasuredHarm:
            likely = {"a": 0.001, "b": 0.05, "c": 0.02}[task]
            return MeasuredHarm(Harm(0, 64, likely, likely**2, True), 0.0, 0.0, likely)

    judge = Stubborn(every, dict.fromkeys("abc", 64))
    judge.scales.pop("hard")
    with raises(BudgetError, adapter="b"):
        merge(every, tmp_path / "x", harm="1%", look=Look(judge=judge), workers=1)


def test_equal_contents_lose_no_other_share_if_fair(adapters, make_adapter, tmp_path: Path) -> None:
    first = next(x for x in adapters if x.name == "fair")
    modules = {path: module.factors() for path, module in first.modules.items()}
    folders = [make_adapter(tmp_path / "in" / name, modules) for name in "abc"]
    others = [x.source.parent for x in adapters if x.name == "hard"]
    every = read_adapters([*folders, *others])
    judge = PowerJudge(every, dict.fromkeys(("a", "b", "c", "hard"), 0.4))
    made = merge(every, tmp_path / "x", size="15%", look=Look(judge=judge), fair=True, workers=1)
    assert made.harms["a"].likely == pytest.approx(made.harms["hard"].likely, rel=0.2)


def test_where_the_worst_counts_equal_contents_are_no_sum(make_adapter, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    same, other = ({PATHS[0]: (rng.random((8, 2)), rng.random((2, 8)))} for _ in range(2))
    rows = (("a", same), ("b", same), ("c", other))
    pieces = align(
        read_adapters([make_adapter(tmp_path / x, y) for x, y in rows]), None, lossless=False
    )
    for given, summed, worst in (({}, [1, 2], [1, 1]), ({"b": 3.0}, [1, 4], [1, 3])):
        assert sorted(importances(pieces, given)) == summed
        assert sorted(importances(pieces, given, worst=True)) == worst


def test_a_task_of_which_nothing_is_coded_needs_no_prompts(adapters) -> None:
    pieces = align(adapters, None, lossless=True)
    assert list(coded_names(pieces)) == []
    assert sorted(coded_names(align(adapters, None, lossless=False))) == sorted(SCALES)
    assert sorted(coded_of([replace(adapters[0], modules={}), *adapters[1:]])) == sorted(
        x.name for x in adapters[1:]
    )
