"""Sets are the adapters that they pin."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.quality import sets
from benchmarks.quality.sets import original_adapters, pinned, recipe_of


@pytest.mark.parametrize("name", pinned())
def test_a_recipe_trains_what_a_set_pins(name: str) -> None:
    recipe = sets.read_recipe(recipe_of(name))
    assert {plan.name for plan in recipe.plans} == pinned()[name].keys()


def test_the_examples_are_those_that_it_pins() -> None:
    assert {x.name for x in original_adapters("examples")} == pinned()["examples"].keys()


def test_other_adapters_are_refused(monkeypatch: Any) -> None:
    other = {**pinned()["examples"], "dates-de": "another"}
    monkeypatch.setattr(sets, "pinned", lambda: {"examples": other})
    with pytest.raises(SystemExit, match="dates-de"):
        original_adapters("examples")
