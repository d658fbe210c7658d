"""Recipes: which adapters to train and how, as JSON.

    {"base": "smollm2-135m-instruct", "output": "examples/adapters", "dtype": "float32",
     "defaults": {"rank": 8, "lr": 0.002},
     "adapters": [{"name": "dates-{language}", "task": "date_format", "languages": ["en", "de"]}]}

Every field of `Plan` except name, task and language may stand in "defaults" and in an entry of
"adapters"; the entry wins. An unknown key is an error: a misspelt option must not train something
else.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.bases import find_base


class RecipeError(ValueError):
    """A recipe is not what `Recipe` and `Plan` describe."""


@dataclass(frozen=True)
class Plan:
    """How one adapter is trained."""

    name: str
    task: str
    language: str
    rank: int = 8
    alpha: float = 16
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    rows: int | None = None  # training rows; None is all
    skip: int = 0  # training rows before the first one that is used
    epochs: int = 2  # upper bound, see `patience`
    batch: int = 16
    lr: float = 2e-3
    seed: int = 0
    shared_init: bool = True  # the same A at the start for all adapters with this seed
    peft_init: bool = False  # A as PEFT draws it after torch.manual_seed(seed)
    validate_every: int = 25  # steps
    validation_rows: int = 64
    patience: int = 4  # validations without a new best before training stops
    solved_nll: float = 0.001  # a validation loss below this leaves nothing to learn
    test_rows: int = 200  # 0 leaves the test split to `hydraopt eval`
    max_tokens: int | None = None  # longer rows, prompt and target, are left out
    save_dtype: str = "float16"

    def steps(self, rows: int) -> int:
        """The steps of all epochs over so many training rows; RecipeError where there is none, for
        an adapter that was not trained must not look like one that was."""
        found = self.epochs * (rows // self.batch)
        if found < 1:
            raise RecipeError(
                f"{self.name}: {rows} training rows, a batch of {self.batch} and {self.epochs} "
                'epochs make no step; give the task more rows (or raise "rows" and "max_tokens", '
                'which leave some out), or make "batch" smaller in the recipe'
            )
        return found

    @property
    def init_seed(self) -> str | int:
        """The seed of A: shared by all adapters, this adapter's own, or a number for PEFT."""
        if self.peft_init:
            return self.seed
        return f"{self.seed}" if self.shared_init else f"{self.seed}/{self.name}"


@dataclass(frozen=True)
class Recipe:
    """A base and the adapters to train on it."""

    base: str
    output: str  # folder of the adapters, relative to where training is started
    dtype: str  # of the frozen base while training; the factors are float32
    plans: tuple[Plan, ...]


def read_recipe(path: Path) -> Recipe:
    """The recipe of a JSON file; RecipeError names the file and what is wrong in it."""
    try:
        return parse_recipe(json.loads(path.read_text(encoding="utf-8")))
    except (RecipeError, json.JSONDecodeError) as error:
        raise RecipeError(f"{path}: {error}") from error


def parse_recipe(data: dict[str, Any]) -> Recipe:
    """The recipe of parsed JSON: one plan per entry of "adapters" and language."""
    _known_keys("recipe", data, {"base", "output", "dtype", "defaults", "adapters", "comment"})
    for key in ("base", "output", "adapters"):
        if key not in data:
            raise RecipeError(f"the recipe has no {key!r}")
    find_base(data["base"])
    options = {field.name for field in dataclasses.fields(Plan)} - {"name", "task", "language"}
    defaults = data.get("defaults", {})
    _known_keys("defaults", defaults, options)
    plans = []
    for entry in data["adapters"]:
        _known_keys("adapters", entry, options | {"name", "task", "languages"})
        for key in ("name", "task", "languages"):
            if key not in entry:
                raise RecipeError(f"an entry of 'adapters' has no {key!r}: {entry}")
        values = {**defaults, **entry}
        languages = values.pop("languages")
        if "targets" in values:
            values["targets"] = tuple(values["targets"])
        for language in languages:
            name = entry["name"].format(language=language)
            plans.append(Plan(**{**values, "name": name, "language": language}))
    names = [plan.name for plan in plans]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RecipeError(f"names given twice: {twice}; put {{language}} into the name")
    dtype = data.get("dtype", "float32")
    if dtype not in ("float32", "bfloat16"):
        raise RecipeError(f"dtype must be float32 or bfloat16, not {dtype!r}")
    return Recipe(data["base"], data["output"], dtype, tuple(plans))


def _known_keys(where: str, data: dict[str, Any], known: set[str]) -> None:
    unknown = sorted(set(data) - known)
    if unknown:
        raise RecipeError(f"unknown keys in {where}: {unknown}; known: {sorted(known)}")
