"""Record in the manifest how a bundle was made (the recipe)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from hydraopt.bundle.harm import ANSWER_TOKENS
from hydraopt.coding.forms import FORMS
from hydraopt.errors import UsageError
from hydraopt.merging.budget import HarmLimit

__all__ = [
    "CoreRecipe",
    "MergeRecipe",
    "MethodRecipe",
    "Recipe",
    "RefreshRecipe",
    "ShrinkRecipe",
    "forms_in",
    "harm_limit_in",
]


_LOOKED: Final = ("sensitivity", "judged")
"""Recipe keys that count tasks measured with the base model."""
_TRAINED: Final = ("refit",)
"""Keys that count tasks whose parts were trained; a refresh from coded tasks keeps them."""


@dataclass(frozen=True)
class MergeRecipe:
    """A merge by hydraopt's own coder.

    limit, value: the budget's name ("size", "error", "max-error", "harm", or "lossless") and its
    limit. unit: of the value, where it has one.
    sensitivity: number of tasks whose modules were weighted by their effect on the base model.
    judged: number of tasks whose harm was measured on their own greedy answers, teacher-forced.
    refit: number of tasks whose coded parts were trained to keep these answers.
    answer_tokens: maximum number of judged tokens per answer; written only if not the default.
    """

    measure: str
    limit: str
    value: float
    forms: tuple[str, ...]
    fair: bool = False
    sensitivity: int = 0
    judged: int = 0
    refit: int = 0
    unit: str = ""
    answer_tokens: int = ANSWER_TOKENS

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as stored in the manifest, without keys for steps that did not run."""
        recipe: dict[str, Any] = {
            "measure": self.measure,
            "fair": self.fair,
            "forms": list(self.forms),
            "limit": self.limit,
            "value": self.value,
        }
        if self.unit:
            recipe["unit"] = self.unit
        if self.sensitivity:
            recipe["sensitivity"] = self.sensitivity
        if self.judged:
            recipe["judged"] = self.judged
        if self.refit:
            recipe["refit"] = self.refit
        if self.answer_tokens != ANSWER_TOKENS:
            recipe["answer_tokens"] = self.answer_tokens
        return recipe


@dataclass(frozen=True)
class ShrinkRecipe:
    """A shrink: what it changes of the recipe ``before`` it, which stays as far as it holds on."""

    before: Mapping[str, Any] = field(repr=False)
    measure: str
    limit: str
    value: float

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as stored in the manifest."""
        changes = {"measure": self.measure, "limit": self.limit, "value": self.value}
        before = _unfair(_without(self.before, ("unit", *_LOOKED)))
        return {**before, **changes, "shrunk": True, "errors": "estimated"}


@dataclass(frozen=True)
class CoreRecipe:
    """A task that is coded over a core: the core has its recipe already, and it stays."""

    def to_json(self) -> dict[str, Any]:
        """Nothing that the manifest would hold."""
        return {}


@dataclass(frozen=True)
class RefreshRecipe:
    """A new core for what a bundle holds: the recipe ``before`` it, as far as it holds on.

    limit, value: of a new limit; without one the price stayed. decoded: tasks were coded again from
    what the bundle held, so that their errors are estimates.
    """

    before: Mapping[str, Any] = field(repr=False)
    limit: str | None
    value: float | None
    decoded: bool

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as stored in the manifest."""
        # Every task is coded again, by errors alone: nobody looks at answers.
        recipe = {**_unfair(_without(self.before, _LOOKED)), "refreshed": True}
        if self.limit is not None:
            recipe = {**_without(recipe, ("unit",)), "limit": self.limit, "value": self.value}
        elif recipe.get("limit") == "harm":  # nobody knows any more whether it is kept
            recipe = _without(recipe, ("limit", "value", "unit"))
        if self.decoded:
            return {**recipe, "errors": "estimated"}
        # Coded from the originals, nothing is left of what was done to parts before.
        return _without(recipe, ("errors", "shrunk", *_TRAINED))


@dataclass(frozen=True)
class MethodRecipe:
    """A method of the literature, with its options; dtype: of the numbers that it made."""

    method: str
    options: Mapping[str, Any]
    dtype: str

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as stored in the manifest."""
        return {
            "method": self.method,
            "options": dict(self.options),
            "dtype": self.dtype,
            "limit": "lossless",
        }


def harm_limit_in(recipe: Mapping[str, Any]) -> HarmLimit | None:
    """Return the limit on harm that a bundle was merged with; None if it had another one."""
    value = recipe.get("value")
    if recipe.get("limit") != HarmLimit.name or type(value) is not float:
        return None
    for shares in (True, False):
        with suppress(UsageError):  # a manifest may state any number
            limit = HarmLimit(value, shares)
            if limit.unit == recipe.get("unit"):
                return limit
    return None


def forms_in(recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the forms that a recipe permits, or all."""
    named = recipe.get("forms")
    forms = tuple(form for form in FORMS if form in named) if isinstance(named, list) else ()
    return forms or tuple(FORMS)


def _unfair(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe without fairness, if it states any."""
    return {key: value if key != "fair" else False for key, value in recipe.items()}


def _without(recipe: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in recipe.items() if key not in keys}


Recipe = MergeRecipe | ShrinkRecipe | RefreshRecipe | MethodRecipe | CoreRecipe
