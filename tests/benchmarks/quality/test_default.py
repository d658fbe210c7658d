"""The default's figure rests on the result files, and the law between them is found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.common import ROOT
from benchmarks.quality.default import LIMITS, Law, measured, readings
from benchmarks.quality.redundant import near_copies
from benchmarks.quality.sets import DEFAULT, SETS, Method
from benchmarks.reports.scores import NO_DROP
from hydraopt.merging.options import DEFAULT_MAX_ERROR
from tests.compress.core_factors import relative_error
from tests.merging.merge_cases import originals

DATES = ROOT / "examples" / "adapters" / "dates-de"


def made_up(recipe: str, factor: float, power: float) -> list[dict[str, Any]]:
    """Rows on the law drop = factor error^power, each bit of a number worth 6.25 % of fp16."""
    return [
        {
            "set": recipe,
            "recipe": recipe,
            "setting": f"{size:g}%",
            "worst_error": 2 ** -(size / 6.25),
            "bytes": 1000 * size,
            "size_pct": size,
            "mean_drop_pct": factor * 2 ** -(power * size / 6.25),
            "mean_drop_interval": [-1.0, 1.0],
            "test_rows": 100_000,
        }
        for size in (2.0, 5.0, 10.0, 20.0, 52.0)
    ]


def test_the_default_reads_as_no_drop_for_every_set() -> None:
    found = [row for row in readings(measured()) if row["limit"] == DEFAULT_MAX_ERROR]
    assert [row["recipe"] for row in found] == list(SETS)
    assert [row["recipe"] for row in found if row["drop_pct"] > NO_DROP] == []


@pytest.mark.parametrize("power", [1.2, 2.0, 3.0])
def test_a_law_is_found_again(power: float) -> None:
    law = Law([*made_up("a", 40.0, power), *made_up("b", 5.0, power)])
    assert law.power == pytest.approx(power, abs=0.051)
    assert law.powers[0] <= power <= law.powers[1]
    for recipe, factor in (("a", 40.0), ("b", 5.0)):
        drop, least, most = law.drop(recipe, 0.05)
        assert drop == pytest.approx(factor * 0.05**power, rel=0.2)
        assert least <= drop <= most


def test_a_recipe_that_loses_nothing_reads_as_nothing() -> None:
    law = Law([*made_up("a", 40.0, 2.0), *made_up("gains", -3.0, 2.0)])
    drop, least, most = law.drop("gains", 0.1)
    assert drop == least == 0 < most


def test_sizes_are_read_between_what_was_scored_and_nowhere_else() -> None:
    rows = made_up(SETS[0], 40.0, 2.0)
    found = {row["limit"]: row for row in readings(rows)}
    # The largest size has an error of 0.003, the smallest one of 0.8.
    assert list(found) == list(LIMITS)
    assert found[0.1]["size_pct"] == pytest.approx(6.25 * np.log2(10), abs=0.01)
    assert (found[0.1]["scored_above"], found[0.1]["scored_below"]) == ("20%", "52%")
    fewer = [row for row in rows if row["size_pct"] <= 20]
    assert 0.05 not in {row["limit"] for row in readings(fewer)}


def test_what_was_scored_is_of_every_set() -> None:
    rows = measured()
    assert {row["recipe"] for row in rows} == set(SETS)
    assert all(0 < row["mean_error"] <= row["worst_error"] for row in rows)


def test_near_copies_are_near(tmp_path: Path) -> None:
    near_copies(DATES, tmp_path, 3, 0.01)
    found = originals(sorted(tmp_path.iterdir()))
    (true,) = originals([DATES]).values()
    for name, factors in found.items():
        errors = [relative_error(factors[path], true[path]) for path in true]
        if name == "copy-0":
            assert max(errors) < 1e-6
        else:
            assert 0.003 < min(errors) < max(errors) < 0.05


def test_a_method_without_a_limit() -> None:
    assert Method("hydraopt", DEFAULT).limit == {}
    assert Method("hydraopt", "5%").limit == {"size": "5%"}
    assert Method("hydraopt", DEFAULT).label == "hydraopt-default.hydra.safetensors"
